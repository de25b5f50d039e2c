"""Arrays of a file, checked against the names and shapes of a backbone of ours."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from arcface.errors import UserError

Shapes = dict[str, tuple[int, ...]]  # of a backbone's state dict, in its order


def check_names(where: str | Path, expected: Iterable[str], found: Iterable[str]) -> None:
    """Raise UserError for the names of a state dict that are missing or unknown."""
    expected, found = set(expected), set(found)
    if missing := sorted(expected - found):
        raise UserError(
            f"{where}: weights of another network: {len(missing)} names missing, such as {missing[0]}; pass its --network"
        )
    if unknown := sorted(found - expected, key=str):
        raise UserError(
            f"{where}: weights of another network: {len(unknown)} names unknown, such as {unknown[0]!a:.100}; pass its --network"
        )


def fitted(source: Path, arrays: dict[str, tuple[str, np.ndarray]], shapes: Shapes) -> dict[str, np.ndarray]:
    """Return float32 copies of arrays in the shapes of a backbone.

    Args:
        source: their file, for messages.
        arrays: by our names, each with its name in the file. A shape may have dimensions of length 1 more or less than ours.
        shapes: by our names.

    Raises:
        UserError: a shape differs, a value is not finite as float32, or a variance is not positive.
    """
    different = [ours for ours, (_, array) in arrays.items() if _significant(array.shape) != _significant(shapes[ours])]
    if different:
        theirs, array = arrays[different[0]]
        raise UserError(
            f"{source}: {theirs!a} has shape {list(array.shape)}, {different[0]} of this network has"
            f" {list(shapes[different[0]])}{and_more(different)}; pass the --network and --embedding_size that it was trained with"
        )
    state = {}
    for ours, (theirs, array) in arrays.items():
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            state[ours] = as_float32(array).reshape(shapes[ours])
        if not np.isfinite(state[ours]).all():
            raise UserError(f"{source}: {theirs!a} contains values that are not finite as float32; download the file again")
        if ours.endswith("._variance") and not (state[ours] > 0).all():
            raise UserError(f"{source}: {theirs!a} contains variances that are not positive; download the file again")
    return state


def and_more(different: list[str]) -> str:
    """Return how many shapes differ besides the one that a message names."""
    return f", and {len(different) - 1} more differ" if len(different) > 1 else ""


def as_float32(array: np.ndarray) -> np.ndarray:
    """Return a float32 copy of an array, contiguous; uint16 is bfloat16, which NumPy lacks."""
    if array.dtype == np.uint16:  # the upper half of a float32
        return (array.astype(np.uint32, "C") << 16).view(np.float32)
    return array.astype(np.float32, "C")


def _significant(shape: tuple[int, ...]) -> list[int]:
    return [length for length in shape if length > 1]
