"""A writer of the files that `torch.save` writes, and arcface_torch's state dicts by the rule of known_backbones.json."""

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

BY_DTYPE = {
    np.dtype("f8"): "DoubleStorage",
    np.dtype("f4"): "FloatStorage",
    np.dtype("f2"): "HalfStorage",
    np.dtype("u2"): "BFloat16Storage",
    np.dtype("i8"): "LongStorage",
    np.dtype("c8"): "ComplexFloatStorage",
}


class Call:
    """What a pickle calls, by the name of a function that need not exist here."""

    def __init__(self, function: str, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
    def __init__(self, array: np.ndarray):
        self.array = array


def tensor(array: np.ndarray, shape=None, strides=None, offset=0) -> Call:
    """A tensor of an array's elements; shape, strides and offset may say anything."""
    strides = strides or tuple(stride // array.itemsize for stride in array.strides)
    return Call("torch._utils _rebuild_tensor_v2", Storage(array), offset, shape or array.shape, strides, False, OrderedDict())


class _Pickler(pickle._Pickler):
    """Python's pickler, because the C one insists that globals exist."""

    def __init__(self, file, legacy):
        super().__init__(file, 2)
        self.legacy, self.storages = legacy, []

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        if not any(value is storage for storage in self.storages):
            self.storages.append(value)
        key = str([value is storage for storage in self.storages].index(True))
        view = (None,) if self.legacy else ()
        return ("storage", Call(f"torch {BY_DTYPE[value.array.dtype]}"), key, "cuda:0", value.array.size, *view)

    def save(self, value, save_persistent_id=True):
        if not isinstance(value, Call):
            return super().save(value, save_persistent_id)
        self.write(f"c{value.function.replace(' ', chr(10))}\n".encode())
        if value.arguments:
            super().save(value.arguments)
            self.write(pickle.REDUCE)


def elements(array: np.ndarray) -> bytes:
    return array.tobytes("A")  # in the order that it has in memory, as its strides say


def dumped(value, legacy=False) -> tuple[bytes, list[np.ndarray]]:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, legacy)
    pickler.dump(value)
    return buffer.getvalue(), [storage.array for storage in pickler.storages]


def save(value, path: Path, compression=zipfile.ZIP_STORED, **entries: bytes | None) -> None:
    """Write a file as PyTorch does since 1.6; `entries` replace those of these names, or leave them out."""
    content, arrays = dumped(value)
    parts = {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}
    parts |= {f"data/{key}": elements(array) for key, array in enumerate(arrays)} | entries
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, part in parts.items():
            if part is not None:
                archive.writestr(f"model/{name}", part)


def save_legacy(value, path: Path) -> None:
    """Write a file as PyTorch did before 1.6."""
    content, arrays = dumped(value, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    header = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts = [*header, content, pickle.dumps([str(key) for key in range(len(arrays))], 2)]
    path.write_bytes(b"".join(parts) + b"".join(struct.pack("<Q", array.size) + elements(array) for array in arrays))


def state_dict(arrays: dict[str, np.ndarray], prefix: str = "") -> OrderedDict:
    """A state dict as PyTorch's modules have it, with the counters of batch norms and the attribute _metadata."""
    state = OrderedDict()
    for name, array in arrays.items():
        state[prefix + name] = tensor(array)
        if name.endswith("running_var"):
            state[prefix + name.replace("running_var", "num_batches_tracked")] = tensor(np.array(5))
    state._metadata = OrderedDict({"": {"version": 1}})
    return state


def by_rule(names: dict[str, list[int]], factor: float) -> dict[str, np.ndarray]:
    """The tensors of a state dict by the rule in the data's README, given their shapes."""
    return {name: _value(name, shape, factor) for name, shape in names.items()}


def _value(name: str, shape: list[int], factor: float) -> np.ndarray:
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(0.2 * drawn)
    if len(shape) > 1:
        return factor * drawn * np.sqrt(1 / np.prod(shape[1:]), dtype=np.float32)
    if name.endswith(("running_mean", "bias")):
        return np.float32(0.1) * drawn
    return 1 + np.float32(0.1) * drawn
