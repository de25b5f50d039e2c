"""InsightFace's verification sets: lfw.bin, cfp_fp.bin, agedb_30.bin and their like."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arcface import safe_pickle
from arcface.errors import UserError


@dataclass(frozen=True, eq=False)
class VerificationSet:
    """Pairs of face crops.

    Attributes:
        name: what log lines call the set, such as "lfw".
        images: 2n encoded images; images[2 * i] and images[2 * i + 1] are pair i.
        same: bool [n], whether pair i shows one person.
    """

    name: str
    images: list[bytes]
    same: np.ndarray


def read_bin(path: str | Path) -> VerificationSet:
    """Read InsightFace's verification format, `pickle((images, same))`, named after the file's stem.

    `images` is a list of 2n encoded images, each bytes or a uint8 array; `same` is a list or array of n bools
    or 0/1. The images are not decoded. The pickle is opened by `safe_pickle`, so that it cannot run anything.

    Raises:
        UserError: no such file, not this format, or a set that cannot be evaluated: it has no pairs, not two
            images a pair, or only one kind of pair.
    """
    try:
        with open(path, "rb") as file:
            content = safe_pickle.load(file, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct the path of the set") from error
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise _wrong_format(path, "it does not hold two lists")
    images, same = (part.tolist() if _is_list_array(part) else part for part in content)
    if not isinstance(images, (list, tuple)) or not isinstance(same, (list, tuple)):
        raise _wrong_format(path, "it does not hold two lists")
    images = [_image_bytes(image, path, number) for number, image in enumerate(images)]
    for number, flag in enumerate(same):
        if not isinstance(flag, (bool, int, float, np.generic)) or flag not in (0, 1):
            raise _wrong_format(path, f"the flag of pair {number} is neither true nor false")
    if not same:
        raise UserError(f"{path}: holds no pairs; fetch or pack it again")
    if len(images) != 2 * len(same):
        raise UserError(f"{path}: {len(images)} images for {len(same)} pairs, not two a pair; pack it again")
    same = np.array(same, bool)
    if same.all() or not same.any():
        kind = "the same person" if same.all() else "different people"
        raise UserError(f"{path}: all {len(same)} pairs show {kind}, which makes any accuracy meaningless; "
                        "pack pairs of both kinds")
    return VerificationSet(Path(path).stem, images, same)


def _is_list_array(part: object) -> bool:
    return isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind in "Obiuf"


def _image_bytes(image: object, path: str | Path, number: int) -> bytes:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return image.tobytes()
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    raise _wrong_format(path, f"image {number} is a {type(image).__name__}, not an encoded image")


def _wrong_format(path: str | Path, detail: str) -> UserError:
    return UserError(f"{path}: no verification set, pickle((images, same)): {detail}; fetch or pack it again")
