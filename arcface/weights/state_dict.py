"""A backbone's weights as files.

    <network>.pdparams      a pickle, what `paddle.save(layer.state_dict(), path)` writes
    <network>.safetensors   the same names and arrays in the format of https://github.com/huggingface/safetensors

Either may contain float64, float32, float16 or bfloat16. NumPy has no bfloat16; as in Paddle, its two bytes are a uint16 here.
"""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors
import safetensors.numpy

from arcface.errors import UserError
from arcface.io import safe_pickle
from arcface.io.files import read_file
from arcface.weights.fit import Shapes, and_more, as_float32, check_names

SUFFIXES = PICKLE, SAFETENSORS = ".pdparams", ".safetensors"
CONVERTED = {".params": "an MXNet file", ".pth": "a PyTorch file", ".pt": "a PyTorch file", ".onnx": "an ONNX file"}
_SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_SLICES = "UnpackBigParamInfor@@"  # Paddle's key


def read_state_dict(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .safetensors or, with any other ending, .pdparams file by name.

    Raises UserError if it cannot be read or is something else. Memory is in proportion to the file's size, whatever lengths it
    claims.
    """
    check_format(file)
    try:
        content = read_file(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); pass a <network>.pdparams or .safetensors") from error
    if file.suffix == SAFETENSORS:
        return _from_safetensors(content, str(file))
    return as_state_dict(safe_pickle.load(content, str(file)), str(file))


def check_format(file: Path) -> None:
    """Raise UserError for weights of other libraries, which are converted first."""
    if kind := CONVERTED.get(file.suffix):
        raise UserError(
            f"{file}: is {kind}; run python -m arcface.weights {shlex.quote(str(file))}"
            " converted/<network>.pdparams and pass what that writes"
        )


def as_state_dict(loaded: object, where: str) -> dict[str, np.ndarray]:
    """Return the arrays of an unpickled state dict; raises UserError if it is something else."""
    if not isinstance(loaded, dict):
        raise UserError(f"{where}: not a state dict; it must be what paddle.save(layer.state_dict(), path) writes")
    arrays = {}
    for name, value in loaded.items():
        match value:
            case np.ndarray():
                arrays[name] = value
            case (str(), np.ndarray()):  # of a tensor in a dict that also contains, say, the epoch: its internal name first
                arrays[name] = value[1]
    # Everything else, such as the table of internal names that Paddle adds, is not a weight.
    return _joined(arrays, loaded[_SLICES], where) if _SLICES in loaded else arrays


def _joined(arrays: dict[str, np.ndarray], wholes: Any, where: str) -> dict[str, np.ndarray]:
    """Join the slices that Paddle makes of arrays of 1 GiB and more in pickle protocols 2 and 3, which cannot store 4 GiB."""
    left = sum({id(array): array.nbytes for array in arrays.values()}.values())
    try:
        for name, whole in wholes.items():
            slices = [arrays.pop(part) for part in whole["slices"]]
            left -= sum(part.nbytes for part in slices)
            if left < 0 or len({part.dtype for part in slices}) != 1:
                raise ValueError("one array repeated, or dtypes that widen, could fill the memory")
            arrays[name] = np.concatenate(slices).reshape(whole["OriginShape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: the slices of its large arrays do not fit together; download it again") from error
    return arrays


def _from_safetensors(content: bytes, where: str) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        for name, tensor in safetensors.deserialize(content):
            if tensor["dtype"] not in _SAFETENSORS_DTYPES:
                raise UserError(
                    f"{where}: {name!a:.100} is of type {tensor['dtype']}, not floating point; download the weights again"
                )
            arrays[name] = np.frombuffer(tensor["data"], _SAFETENSORS_DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        # Of several tensors with one name the library keeps the last.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=list)
        if len({name for name, _ in header}) != len(header):
            raise ValueError("two tensors of one name")
    except (safetensors.SafetensorError, ValueError) as error:
        detail = ascii(str(error))[1:-1]
        raise UserError(f"{where}: not a safetensors file, or a damaged one ({detail:.100}); download it again") from error
    return arrays


def as_arrays(tensors: dict[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    """Return copies of tensors by name, each of the tensor's own size.

    Of a view, such as a weight in training, `Tensor.numpy` alone copies and keeps the whole of which it is a part.
    """
    return {name: tensor.clone().numpy() for name, tensor in tensors.items()}


def state_dict_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the content of a .pdparams file."""
    buffer = io.BytesIO()
    paddle.save({name: paddle.to_tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


def safetensors_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the content of a .safetensors file."""
    # The library writes an array's memory as it lies, in whatever order.
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def load_backbone(backbone: paddle.nn.Layer, state: dict[str, np.ndarray], where: str) -> None:
    """Set all parameters and buffers of a backbone; raises UserError for names or shapes not its own, and values not finite."""
    arrays = checked(state, {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}, where)
    backbone.set_state_dict({name: paddle.to_tensor(array) for name, array in arrays.items()})


def checked(state: dict[str, np.ndarray], shapes: Shapes, where: str) -> dict[str, np.ndarray]:
    """Return a state dict's arrays as float32, in the order of `shapes`; raises UserError as `load_backbone` does."""
    check_names(where, shapes, state)
    if different := [name for name, shape in shapes.items() if state[name].shape != shape]:
        first = different[0]
        raise UserError(
            f"{where}: {first} has shape {list(state[first].shape)}, this network's is {list(shapes[first])}{and_more(different)};"
            " pass the --network and --embedding_size that it was trained with"
        )
    arrays = {}
    for name in shapes:
        if state[name].dtype.kind != "f" and state[name].dtype != np.uint16:
            raise UserError(f"{where}: {name} is of type {state[name].dtype}, not floating point; download the weights again")
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            arrays[name] = as_float32(state[name])
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{where}: {name!a} contains values that are not finite as float32; download the weights again")
    return arrays
