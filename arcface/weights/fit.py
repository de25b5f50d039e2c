"""Arrays of another library, checked against the names and shapes of a backbone of ours."""

from pathlib import Path

import numpy as np

from arcface.errors import UserError

Shapes = dict[str, tuple[int, ...]]  # of a backbone's state dict, in its order


def fitted(source: Path, arrays: dict[str, tuple[str, np.ndarray]], shapes: Shapes) -> dict[str, np.ndarray]:
    """Return float32 copies of arrays in the shapes of a backbone.

    Args:
        source: their file, for messages.
        arrays: by our names, each with its name in the file. A shape may have dimensions of length 1 more or less than ours.
        shapes: by our names.

    Raises:
        UserError: a shape differs, a value is not finite as float32, or a variance is not positive.
    """
    state = {}
    for ours, (theirs, array) in arrays.items():
        if [length for length in array.shape if length > 1] != [length for length in shapes[ours] if length > 1]:
            raise UserError(
                f"{source}: {theirs!a} has shape {list(array.shape)}, {ours} of this network has {list(shapes[ours])};"
                " pass the --network and --embedding_size that it was trained with"
            )
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            state[ours] = array.reshape(shapes[ours]).astype(np.float32)
        if not np.isfinite(state[ours]).all():
            raise UserError(f"{source}: {theirs!a} contains values that are not finite as float32; download the file again")
        if ours.endswith("._variance") and not (state[ours] > 0).all():
            raise UserError(f"{source}: {theirs!a} contains variances that are not positive; download the file again")
    return state
