"""PyTorch state dicts, such as arcface_torch's, as state dicts of ours."""

from pathlib import Path

import numpy as np

from arcface.errors import UserError
from arcface.weights.fit import Shapes, check_names, fitted
from arcface.weights.torch_file import Tensor, read_torch_file

PARAMETERS = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight"}  # PyTorch's names; others are ours
STATE_DICTS = "state_dict_backbone", "state_dict"  # where checkpoints, arcface_torch's first, have that of the backbone
PARALLEL = "module."  # which DistributedDataParallel puts before each name


def read_torch(source: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict, or of the one in a checkpoint, by PyTorch's names in the file's order.

    Names lose the prefix `module.` that all have; the counters of batch norms are left out. bfloat16 is a uint16.

    Raises UserError if the file cannot be read or is no state dict of weights.
    """
    return read_torch_file(source, lambda loaded: _select(loaded, source))


def _select(loaded: object, source: Path) -> dict[str, Tensor]:
    for name in STATE_DICTS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
            break
    if not isinstance(loaded, dict) or not loaded or not all(type(name) is str for name in loaded):
        raise UserError(f"{source}: not a PyTorch state dict; write it with torch.save(model.state_dict(), path)")
    prefix = PARALLEL if all(name.startswith(PARALLEL) for name in loaded) else ""
    tensors = {}
    for name, tensor in loaded.items():
        if name.endswith("num_batches_tracked"):
            continue
        if not isinstance(tensor, Tensor) or tensor.storage.dtype.kind != "f" and tensor.storage.dtype != np.uint16:
            kind = tensor.storage.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UserError(
                f"{source}: {name!a:.100} is of type {kind}, not floating point;"
                " write the file with torch.save(model.state_dict(), path)"
            )
        tensors[name.removeprefix(prefix)] = tensor
    return tensors


def fit_torch(source: Path, arrays: dict[str, np.ndarray], network: str, shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the weights by our names, float32 in `shapes`, those of the backbone called `network`.

    Tensors are matched by their names if most of these are arcface_torch's, and otherwise by their order: the n-th is the n-th
    of `shapes`. Values are not changed, so the model must have been trained on RGB images scaled by
    (x - 127.5) / 127.5, with our eps.

    Raises:
        UserError: the tensors are not this network's.
    """
    names = {torch_name(ours): ours for ours in shapes}
    if 2 * len(names.keys() & arrays.keys()) > min(len(names), len(arrays)):
        check_names(source, names, arrays)
        pairs = {ours: (theirs, arrays[theirs]) for theirs, ours in names.items()}
    else:
        pairs = {ours: pair for ours, pair in zip(shapes, arrays.items(), strict=False)}
    for ours, (theirs, array) in pairs.items():
        pairs[ours] = theirs, in_our_layout(array, shapes[ours])
        if theirs.rsplit(".", 1)[-1] != torch_name(ours).rsplit(".", 1)[-1]:
            raise UserError(f"{source}: {theirs!a} is where {network} has {ours}; the layers must be the same, in order")
    state = fitted(source, pairs, shapes)
    if len(arrays) != len(shapes):
        raise UserError(f"{source}: {len(arrays)} tensors, {network} has {len(shapes)}; the layers must be the same")
    return state


def torch_name(ours: str) -> str:
    """Return PyTorch's name of a tensor in a layer that has the same name."""
    layer, dot, parameter = ours.rpartition(".")
    return f"{layer}{dot}{PARAMETERS.get(parameter, parameter)}"


def in_our_layout(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return PyTorch's array for the tensor of ours that has this shape: weights of linear layers are [out, in] there."""
    return array.T if len(shape) == 2 else array
