"""A backbone's weights as files: <network>.pdparams, what `paddle.save(layer.state_dict(), path)` writes."""

import io
import os
from pathlib import Path

import numpy as np
import paddle

from arcface import safe_pickle
from arcface.errors import UserError
from arcface.files import read_file


def read_backbone(directory: Path, network: str) -> dict[str, np.ndarray]:
    """Return the state dict in a directory (a run's output, or any that holds <network>.pdparams)."""
    if os.path.isfile(directory):
        raise UserError(f"{directory}: is a file; give the directory that it is in with --checkpoint")
    file = directory / f"{network}.pdparams"
    if not os.path.exists(file):
        found = sorted(path.name for path in directory.glob("*.pdparams"))
        raise UserError(
            f"{directory}: looked for {file.name}, found {', '.join(found) or 'no .pdparams file'};"
            " give the directory with --checkpoint and its network with --network"
        )
    return read_state_dict(file)


def read_state_dict(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .pdparams file by name; raises UserError if it cannot be read or is something else."""
    try:
        content = read_file(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a <network>.pdparams") from error
    return as_state_dict(safe_pickle.load(content, str(file)), str(file))


def as_state_dict(loaded: object, where: str) -> dict[str, np.ndarray]:
    """Return the arrays of an unpickled state dict; raises UserError if it is something else."""
    if not isinstance(loaded, dict):
        raise UserError(f"{where}: not a state dict; it must be what paddle.save(layer.state_dict(), path) writes")
    # Paddle adds a table of its internal names to the state dicts that it saves.
    return {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}


def state_dict_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the content of a .pdparams file."""
    buffer = io.BytesIO()
    paddle.save({name: paddle.to_tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


def load_backbone(backbone: paddle.nn.Layer, state: dict[str, np.ndarray], where: str) -> None:
    """Set all parameters and buffers of a backbone; raises UserError for names or shapes not its own, and values not finite."""
    own = backbone.state_dict()
    if missing := sorted(own.keys() - state.keys()):
        raise UserError(
            f"{where}: weights of another network: {len(missing)} names missing, such as {missing[0]}; give its --network"
        )
    if unknown := sorted(state.keys() - own.keys()):
        raise UserError(
            f"{where}: weights of another network: {len(unknown)} names unknown, such as {unknown[0]}; give its --network"
        )
    arrays = {}
    for name, tensor in own.items():
        if list(state[name].shape) != list(tensor.shape):
            raise UserError(
                f"{where}: {name} has shape {list(state[name].shape)}, this network's is {list(tensor.shape)};"
                " give the --network and --embedding_size that it was trained with"
            )
        if state[name].dtype.kind != "f":
            raise UserError(f"{where}: {name} is of type {state[name].dtype}, not floating point; fetch the weights again")
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            arrays[name] = state[name].astype(np.float32)
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{where}: {name} holds values that are not finite; fetch the weights again or take earlier ones")
    backbone.set_state_dict({name: paddle.to_tensor(array) for name, array in arrays.items()})
