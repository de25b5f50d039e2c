"""InsightFace's verification sets: lfw.bin, cfp_fp.bin, agedb_30.bin and their like."""

import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from arcface.data.verification_set import VerificationSet
from arcface.errors import UserError
from arcface.io import safe_pickle
from arcface.io.files import atomic_write, open_file

# Stores bytes as they are, and every Python from 3.4 on reads it. Protocol 2, which Python 2 also reads and in
# which the public lfw.bin is written, stores them as UTF-8 text: 49 MB in place of 33 MB for LFW.
_WRITTEN_PROTOCOL = 4


def read_bin(path: str | Path) -> VerificationSet:
    """Read InsightFace's verification format, `pickle((images, is_same))`, named after the file's stem.

    `images` is a list of 2n encoded images, each bytes or a uint8 array; `is_same` is a list or array of n bools
    or 0/1. The images are not decoded. The pickle is opened by `safe_pickle`, so that it cannot run anything.

    Raises:
        UserError: no such file, not this format, or a set that cannot be evaluated: it has no pairs, not two
            images a pair, or only one kind of pair.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = safe_pickle.load(file, str(path))
    except OSError as error:
        refuse_bcolz(Path(path).with_suffix(""))
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct --val_targets, --val_dir or --data_dir") from error
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise _wrong_format(path, "it does not contain two lists")
    images, is_same = (part.tolist() if _is_list_array(part) else part for part in content)
    if not isinstance(images, (list, tuple)) or not isinstance(is_same, (list, tuple)):
        raise _wrong_format(path, "it does not contain two lists")
    images = _as_bytes(images, path, size)
    return VerificationSet(Path(path).stem, images, _checked_flags(path, is_same, len(images)))


def write_bin(path: str | Path, images: Sequence[bytes], is_same: Iterable, overwrite: bool = False) -> None:
    """Write a verification set that `read_bin` and InsightFace's own loaders read.

    The file is `pickle((list of bytes, list of bool))` in protocol 4; InsightFace's packer, lfw2pack.py, takes the
    highest of the Python that runs it. Equal images are stored once, however many pairs show them. The file gets
    its name when all of it is on the disk: readers see a complete set, the old one or the new one.

    Args:
        path: the file; its directory exists.
        images: 2n encoded images; images[2 * i] and images[2 * i + 1] are pair i.
        is_same: n bools or 0/1, whether pair i shows one identity.
        overwrite: replace a file of this name.

    Raises:
        UserError: the file exists and is not to be replaced, cannot be written, or `read_bin` would refuse it.
    """
    path = Path(path)
    check_output(path, overwrite)
    for number, image in enumerate(images):
        if type(image) is not bytes:
            raise TypeError(f"image {number} is a {type(image).__name__}, not bytes")
    flags = _checked_flags(path, list(is_same), len(images)).tolist()
    stored: dict[bytes, bytes] = {}
    shared = [stored.setdefault(image, image) for image in images]  # one object is pickled once
    try:
        with atomic_write(path) as file:
            pickle.dump((shared, flags), file, _WRITTEN_PROTOCOL)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place or make room") from error


def check_output(path: Path, overwrite: bool) -> None:
    """Raise the UserError of `write_bin` for a name that it cannot write; for callers with long work before it."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a directory; pass the name of a file")
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: its directory does not exist; create it or pass another name")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path}: exists already; pass another name, or --overwrite to replace it")


def refuse_bcolz(directory: Path) -> None:
    """Raise a UserError if a directory is a verification set in another layout: a bcolz array, with its list of pairs beside it.

    Tools that train InsightFace's networks in PyTorch make these of .bin files: float32 [2n, 3, 112, 112] and <name>_list.npy.
    """
    if os.path.isfile(directory / "meta" / "sizes") and os.path.isfile(directory / "meta" / "storage"):
        raise UserError(
            f"{directory}: is a bcolz array, a copy of {directory.name}.bin that PyTorch tools make; put the {directory.name}.bin"
            f" that came with it beside it, or make one of it and {directory.name}_list.npy as datasets/README.md says"
        )


def check_both_kinds(path: str | Path, is_same: Sequence[bool]) -> None:
    """Raise a UserError that names the file if all pairs show one identity, or all show two."""
    if all(is_same) or not any(is_same):
        kind = "the same identity" if all(is_same) else "different identities"
        raise UserError(
            f"{path}: all {len(is_same)} pairs show {kind}, which makes any accuracy meaningless; pack pairs of both kinds"
        )


def _checked_flags(path: str | Path, is_same: Sequence, images: int) -> np.ndarray:
    """Return `is_same` as bool [n], checked against the number of images."""
    for number, flag in enumerate(is_same):
        if not isinstance(flag, (bool, int, float, np.generic)) or flag not in (0, 1):
            raise _wrong_format(path, f"the flag of pair {number} is neither true nor false")
    if not is_same:
        raise UserError(f"{path}: contains no pairs; download or pack it again")
    if images != 2 * len(is_same):
        raise UserError(f"{path}: {images} images for {len(is_same)} pairs, not two a pair; pack it again")
    flags = np.array(is_same, bool)
    check_both_kinds(path, flags.tolist())
    return flags


def _is_list_array(part: object) -> bool:
    return isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind in "Obiuf"


def _is_encoded(image: object) -> bool:
    return isinstance(image, (bytes, bytearray)) or (isinstance(image, np.ndarray) and image.dtype == np.uint8)


def _as_bytes(images: Sequence, path: str | Path, file_size: int) -> list[bytes]:
    """Return each image as bytes; an array that several pairs share becomes one object that they share.

    A few instructions of a pickle can name an array again, or make one more array of the same bytes. The copies
    are therefore paid for: in an honest file each array has bytes of its own, so all of them are below its size.
    """
    copies: dict[int, bytes] = {}
    allowance = file_size
    result: list[bytes] = []
    for number, image in enumerate(images):
        if not _is_encoded(image):
            raise _wrong_format(path, f"image {number} is a {type(image).__name__}, not an encoded image")
        if type(image) is not bytes and id(image) not in copies:
            view = memoryview(image)
            allowance -= view.nbytes
            if allowance < 0:
                raise _wrong_format(path, "its images would take far more memory than its size")
            copies[id(image)] = view.tobytes()
        result.append(copies.get(id(image), image))
    return result


def _wrong_format(path: str | Path, detail: str) -> UserError:
    return UserError(f"{path}: not a verification set, pickle((images, is_same)): {detail}; download or pack it again")
