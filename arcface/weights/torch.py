"""PyTorch state dicts of the same layers in the same order as a state dict of ours."""

from pathlib import Path

import numpy as np

from arcface.errors import UserError
from arcface.weights.fit import Shapes, fitted

PARAMETERS = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight"}  # PyTorch's names; others are ours


def read_torch(source: Path, network: str, shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the weights by our names, float32 in `shapes`, those of the backbone called `network`.

    Tensors are matched by their order: the n-th is the n-th of `shapes`. Values are not changed, so the model must have been
    trained on RGB images scaled by (x - 127.5) / 127.5, with batch norm eps 1e-5.

    Raises:
        UserError: PyTorch is not installed, the file is no state dict of weights, or its tensors are not this network's.
    """
    arrays = _read(source)
    pairs = dict(zip(shapes, arrays, strict=False))
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


def _read(source: Path) -> list[tuple[str, np.ndarray]]:
    """Return names and float32 arrays in the file's order, without the counters of batch norms."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{source}: PyTorch, which reads this file, is not installed; run: pip install torch") from error
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
        tensors = {name: tensor.detach() for name, tensor in loaded.items() if not name.endswith("num_batches_tracked")}
        if not all(tensor.is_floating_point() for tensor in tensors.values()):
            raise TypeError("tensors of other numbers")
        return [(name, tensor.float().numpy()) for name, tensor in tensors.items()]
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}); correct the path") from error
    except Exception as error:  # of many types, as bad files go
        raise UserError(
            f"{source}: not a plain PyTorch state dict of weights ({type(error).__name__});"
            " write it with torch.save(model.state_dict(), path)"
        ) from error
