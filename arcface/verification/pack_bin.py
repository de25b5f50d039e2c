"""Packs aligned face crops and a list of pairs into one verification file, InsightFace's .bin."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arcface.data.bin_file import check_both_kinds, check_output, write_bin
from arcface.errors import UserError
from arcface.io.files import atomic_write
from arcface.io.images import decode
from arcface.options.kinds import CountOrZero, PathName
from arcface.verification.pair_lists import PairList, read_pairs

FOLDS = 10  # of valid.py
NAMED = 10  # missing images, at most, that are named on the terminal


@dataclass(kw_only=True)
class PackOptions:
    """Verification set to pack"""

    images: PathName
    """Folder of the aligned crops."""
    pairs: PathName
    """The list of pairs."""
    output: PathName
    """The file NAME.bin to write; valid.py calls the set NAME."""
    overwrite: bool = False
    """Replace an existing file."""
    skip_missing: CountOrZero = 0
    """Leave out the pairs of up to so many images that are missing; 0 stops at any."""


def pack_bin(options: PackOptions) -> list[str]:
    """Write the .bin and, if images are missing, their list; returns the lines that say what was written.

    Raises UserError if the list or an image is wrong, or a file cannot be written.
    """
    output, images = Path(options.output), Path(options.images)
    check_output(output, options.overwrite)
    if output.suffix != ".bin":
        raise UserError(f"{output}: valid.py would not find it; name it {output.with_suffix('.bin').name}")
    list_file = output.with_suffix(".missing.txt")
    check_output(list_file, options.overwrite)
    pairs = read_pairs(options.pairs)
    found = pairs.find_images(images, options.skip_missing)
    kept, missing = split(pairs, found)
    if not len(kept):
        raise UserError(f"{options.pairs}: each of its pairs lacks an image in {images}; correct --images or restore the files")
    files = [file for pair in kept for file in found[2 * pair : 2 * pair + 2] if file]
    flags = [pairs.is_same[pair] for pair in kept]
    check_both_kinds(options.pairs, flags)
    encoded = read_images(files)
    _write(output, [encoded[file] for file in files], flags, options.overwrite, list_file, missing)
    lines = [f"{output}: {len(flags)} pairs, {len(encoded)} distinct images, {output.stat().st_size} bytes"]
    return lines + ([f"{list_file}: {describe_missing(missing, kept, pairs)}"] if missing else [])


def split(pairs: PairList, files: Sequence[Path | None]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Return the pairs that have both images, int64 [kept], and the lines of the pairs of each missing image."""
    missing: dict[str, list[int]] = {}
    for position, (path, file) in enumerate(zip(pairs.paths, files, strict=True)):
        if file is None:
            missing.setdefault(path, []).append(pairs.lines[position // 2])
    complete = np.array([file is not None for file in files]).reshape(-1, 2).all(axis=1)
    return np.flatnonzero(complete), missing


def read_images(files: Iterable[Path]) -> dict[Path, bytes]:
    """Return the bytes of each distinct file; raises UserError for the first that is no 112x112 image."""
    encoded = {}
    with tqdm(dict.fromkeys(files), "reading", unit=" images", mininterval=1, disable=None) as distinct:
        for file in distinct:
            try:
                encoded[file] = file.read_bytes()
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror or error}); restore the file") from error
            decode(encoded[file], str(file))
    return encoded


def describe_missing(missing: dict[str, list[int]], kept: np.ndarray, pairs: PairList) -> str:
    """Return what is left out, and what that does to the folds."""
    names = ", ".join(list(missing)[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
    left_out = len(pairs.is_same) - len(kept)
    moved = (fold_of(len(pairs.is_same))[kept] != fold_of(len(kept))).sum()
    positives = sum(pairs.is_same) - sum(pairs.is_same[pair] for pair in kept)
    return (
        f"{len(missing)} missing images: {names}; {left_out} pairs left out, {positives} of one identity;"
        f" {moved} of the others are in another of the {FOLDS} folds than in the whole list"
    )


def fold_of(pairs: int) -> np.ndarray:
    """Return the fold of each of so many pairs, int64 [pairs]."""
    return np.concatenate([np.full(len(part), fold) for fold, part in enumerate(np.array_split(np.arange(pairs), FOLDS))])


def _write(
    output: Path,
    images: Sequence[bytes],
    flags: Sequence[bool],
    overwrite: bool,
    list_file: Path,
    missing: dict[str, list[int]],
) -> None:
    """Write the set and, if images are missing, their list; that of an earlier set is removed if none are."""
    if not missing:
        write_bin(output, images, flags, overwrite)
        list_file.unlink(missing_ok=True)
        return
    try:
        with atomic_write(list_file) as file:  # has its name only when the set has
            for path, lines in missing.items():
                file.write(f"{path}\t{','.join(map(str, lines))}\n".encode(errors="surrogateescape"))
            write_bin(output, images, flags, overwrite)
    except OSError as error:
        raise UserError(f"{list_file}: cannot be written ({error.strerror or error}); choose another place or make room") from error
