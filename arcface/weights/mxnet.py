"""MXNet 1.x parameter files, read without MXNet.

The format is what `NDArray::Save` and `NDArray::Load` say in MXNet's src/ndarray/ndarray.cc, all numbers little-endian:

    uint64          0x112, magic of a list of arrays
    uint64          reserved
    uint64          number of arrays; then of each array:
        uint32          magic: 0xF993FAC8 (version 1), 0xF993FAC9 (2) or 0xF993FACA (3, NumPy's shapes)
        int32           storage type, 0 for dense; not in version 1
        uint32, int64s  number of dimensions, and their lengths
        int32, int32    type and number of the device that held it
        int32           type flag (mshadow's base.h): 0 float32, 1 float64, 2 float16
        bytes           the values, the last dimension contiguous
    uint64          number of names; then of each name: uint64 length, bytes

Files of MXNet 0.x, which have no magic before each array, are refused.
"""

import io
import math
import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from arcface.errors import UserError
from arcface.io.files import open_file

LIST_MAGIC = 0x112
ARRAY_MAGICS = VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 0
# Of weights; the other flags are integers.
DTYPES: dict[int, np.dtype] = {0: np.dtype("<f4"), 1: np.dtype("<f8"), 2: np.dtype("<f2")}

_LEAST_ARRAY_BYTES = 4 + 4 + 8 + 8 + 4 + 2  # version 1, one dimension, one value
_LEAST_NAME_BYTES = 8 + 1
_MAX_DIMENSIONS = 32  # of NumPy 1
_NAME = re.compile(rb"[!-~]{1,200}")  # so that messages can print it


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of an MXNet parameter file by name, in the file's order.

    MXNet's `save_checkpoint` names them 'arg:...' (weights) and 'aux:...' (running statistics). They are read-only and
    float32, float64 or float16 as in the file; the reserved number and the devices are ignored, as MXNet ignores them.
    The arrays need as much memory as the file is large and no more, whatever lengths it claims.

    Raises:
        UserError: the file cannot be read or is not this format; the message names the byte where that shows. Sparse,
            integer, empty and scalar arrays are refused, as are two arrays of one name.
    """
    try:
        with open_file(path) as file:
            return _read_list(_Reader(file, str(path)))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); correct the path") from error


class _Reader:
    """A file that is never asked for more bytes than it has; `error` tells where the last number or bytes started."""

    def __init__(self, file: BinaryIO, name: str):
        self.file, self.name = file, name
        self.left = file.seek(0, io.SEEK_END)
        self.start = self.next = file.seek(0)

    def take(self, size: int) -> bytes:
        self.start = self.next
        content = self.file.read(size) if size <= self.left else b""
        if len(content) < size:
            raise self.error(f"more bytes are due than the {self.left} that are left")
        self.next += size
        self.left -= size
        return content

    def numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def count(self, least_bytes: int) -> int:
        """Read the number of things that follow, each of at least so many bytes."""
        (count,) = self.numbers("Q")
        if count * least_bytes > self.left:
            raise self.error(f"a count or length of {count} where {self.left} bytes are left")
        return count

    def error(self, detail: str) -> UserError:
        return UserError(
            f"{self.name}: byte {self.start}: {detail}; not an MXNet 1.x parameter file, or a damaged one: download it again"
        )


def _read_list(reader: _Reader) -> dict[str, np.ndarray]:
    magic, _reserved = reader.numbers("QQ")
    if magic != LIST_MAGIC:
        raise reader.error(f"the file's magic is {magic:#x}, not {LIST_MAGIC:#x}")
    arrays = [_read_array(reader) for _ in range(reader.count(_LEAST_ARRAY_BYTES))]
    if (count := reader.count(_LEAST_NAME_BYTES)) != len(arrays):
        raise reader.error(f"{count} names for {len(arrays)} arrays")
    named = {}
    for array in arrays:
        name = reader.take(reader.count(1))
        if not _NAME.fullmatch(name):
            raise reader.error("a name that is empty, over 200 bytes or not printable ASCII")
        if name.decode() in named:
            raise reader.error(f"a second array named {name.decode()}")
        named[name.decode()] = array
    if reader.left:
        raise reader.error(f"{reader.left} bytes follow this last name")
    return named


def _read_array(reader: _Reader) -> np.ndarray:
    (magic,) = reader.numbers("I")
    if magic not in ARRAY_MAGICS:
        raise reader.error(f"an array's magic is {magic:#x}, not {VERSION_1:#x} to {VERSION_3:#x}")
    if magic != VERSION_1:
        (storage,) = reader.numbers("i")
        if storage != DENSE:
            raise reader.error(f"storage type {storage}, not dense ({DENSE})")
    (dimensions,) = reader.numbers("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise reader.error(f"an array of {dimensions} dimensions, not 1 to {_MAX_DIMENSIONS}")
    shape = reader.numbers(f"{dimensions}q")
    if min(shape) < 1:
        raise reader.error(f"a dimension of length {min(shape)}")
    _device = reader.numbers("ii")
    (flag,) = reader.numbers("i")
    if flag not in DTYPES:
        raise reader.error(f"type flag {flag}, not that of float32 (0), float64 (1) or float16 (2)")
    content = reader.take(math.prod(shape) * DTYPES[flag].itemsize)
    return np.frombuffer(content, DTYPES[flag]).reshape(shape)
