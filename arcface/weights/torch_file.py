"""Files that `torch.save` writes, read without PyTorch.

Since PyTorch 1.6 such a file is a zip archive, uncompressed:

    NAME/data.pkl       a pickle in which a tensor is a call of torch._utils._rebuild_tensor_v2 with a storage, an offset, a shape
                        and strides; a storage is a persistent id: ("storage", its class, KEY, device, number of elements)
    NAME/data/KEY       the storage's elements
    NAME/byteorder      "little" or "big"; older files are little-endian and lack it

Before, it was one pickle after the other: a magic number, a version, the byte order, the object, and the keys of the storages,
each of which then follows as its number of elements, a uint64, and the elements.

Only plain data and dense tensors of these types are read (see arcface/io/safe_pickle.py); anything else is refused by name.
NumPy has no bfloat16; its two bytes are a uint16 here, as in state_dict.py.
"""

import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from arcface.errors import UserError
from arcface.io import safe_pickle
from arcface.io.files import open_file
from arcface.io.pickle_arrays import array_size

DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": "<u2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
_STORAGES = {f"torch.{name}Storage": np.dtype(code) for name, code in DTYPES.items()}
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of files before PyTorch 1.6
_REMEDY = "download it again, or write it with torch.save(model.state_dict(), path)"
_ADVICE = "only tensors and plain data are loaded: get a file that torch.save(model.state_dict(), path) wrote"


@dataclass(frozen=True)
class Storage:
    """The elements that one or more tensors share; they stay in the file until a tensor is asked for."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A dense tensor: offset and strides count elements of its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, content: bytes) -> np.ndarray:
        """Return its elements, read-only and not copied, given those of its storage; raises ValueError if they are too few."""
        if array_size(self.shape) > self.storage.size or not self._is_inside():
            raise ValueError("a tensor larger than its storage")
        elements = np.frombuffer(content, self.storage.dtype, self.storage.size)[self.offset :]
        strides = [stride * self.storage.dtype.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(elements, self.shape, strides, writeable=False)

    def _is_inside(self) -> bool:
        numbers = (self.offset, *self.strides)
        if len(self.strides) != len(self.shape) or not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
            return False
        last = self.offset + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))
        return 0 in self.shape or last < self.storage.size


def read_torch_file(path: Path, select: Callable[[object], dict[str, Tensor]]) -> dict[str, np.ndarray]:
    """Return the tensors that a function selects from the object in a file, by name.

    Memory is in proportion to the file's size, whatever lengths it claims.

    Raises:
        UserError: the file cannot be read, is damaged or no such file, or contains other objects; and what `select` raises.
    """
    try:
        with open_file(path) as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            loaded, read = (_open_zip if is_zip else _open_pickles)(file, str(path))
            tensors = select(loaded)
            storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
            contents = {key: read(storage) for key, storage in storages.items()}
            return {name: tensor.array(contents[tensor.storage.key]) for name, tensor in tensors.items()}
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); correct the path") from error
    except Exception as error:  # on garbage the archive's reader raises ten types
        detail = ascii(str(error) or type(error).__name__)[1:-1]
        raise UserError(f"{path}: not a PyTorch file, or a damaged one ({detail:.100}); {_REMEDY}") from error


Read = Callable[[Storage], bytes]  # of a storage's elements


def _open_zip(file: BinaryIO, path: str) -> tuple[object, Read]:
    """Return the object in an archive, and what reads its storages."""
    archive = zipfile.ZipFile(file)
    entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
    left = os.fstat(file.fileno()).st_size  # to read: entries that overlap, or are compressed, could fill the memory

    def content(name: str) -> bytes:
        nonlocal left
        entry = entries[name]
        left -= entry.file_size
        if left < 0 or entry.compress_size != entry.file_size:
            raise ValueError("compressed or overlapping entries")
        return archive.read(entry)

    if "byteorder" in entries and content("byteorder") != b"little":
        raise ValueError("its numbers are big-endian")
    return safe_pickle.load(content("data.pkl"), path, _library({})), lambda storage: content(f"data/{storage.key}")


def _open_pickles(file: BinaryIO, path: str) -> tuple[object, Read]:
    """Return the object in a file of before PyTorch 1.6, and what reads its storages."""
    header = [safe_pickle.load(file, path) for _ in range(2)]
    if header != [_MAGIC, _VERSION]:
        raise ValueError("its first bytes are another format's")
    system = safe_pickle.load(file, path)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    storages: dict[str, Storage] = {}
    loaded = safe_pickle.load(file, path, _library(storages))
    keys: Any = safe_pickle.load(file, path)
    size, starts = os.fstat(file.fileno()).st_size, {}
    for key in keys:
        (length,) = struct.unpack("<Q", file.read(8))
        starts[key] = file.tell()
        if length != storages[key].size or starts[key] + storages[key].nbytes > size:
            raise ValueError("a storage of another length than the tensors say")
        file.seek(storages[key].nbytes, os.SEEK_CUR)

    def content(storage: Storage) -> bytes:
        file.seek(starts[storage.key])
        return file.read(storage.nbytes)

    return loaded, content


def _library(storages: dict[str, Storage]) -> safe_pickle.Library:
    """Return what PyTorch's pickles contain besides plain data; reading one fills `storages` with its own by key."""

    def persistent(identifier: Any) -> Storage:
        kind, storage_class, key, _device, size, *view = identifier
        if kind != "storage" or type(key) is not str or type(size) is not int or not 0 <= size < 2**48 or any(view):
            raise ValueError("an unusual storage")
        storage = Storage(key, _STORAGES[storage_class.name], size)
        if storages.setdefault(key, storage) != storage:
            raise ValueError("two storages of one key")
        return storage

    def tensor(_, storage: Storage, offset: int, shape: tuple, strides: tuple, *_gradients) -> Tensor:
        if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
            raise TypeError("an unusual tensor")
        return Tensor(storage, offset, shape, strides)

    def parameter(_, data: Tensor, *_gradients) -> Tensor:
        if type(data) is not Tensor:
            raise TypeError("an unusual parameter")
        return data

    functions: dict[str, Callable] = {"_rebuild_tensor": tensor, "_rebuild_tensor_v2": tensor, "_rebuild_parameter": parameter}
    accepted: dict[tuple[str, str], Callable | None] = {("torch._utils", name): build for name, build in functions.items()}
    accepted |= {("torch", name.removeprefix("torch.")): None for name in _STORAGES}
    return safe_pickle.Library(accepted, persistent, _ADVICE)
