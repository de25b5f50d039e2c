"""Checks on the NumPy dtypes, shapes and contents that a pickle asks for (see safe_pickle.py)."""

import math
import re
from typing import Any

import numpy as np

# Numbers, fixed-length bytes and objects: what our files contain and what is valid with any content. Text is not: an invalid
# code point makes NumPy raise a SystemError long after loading.
DTYPE_CODES = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|O[48]?|S[1-9][0-9]{0,5}")
_MAX_DIMENSIONS = 32  # NumPy 1's limit; NumPy 2.4 reads past its buffer when a pickled array claims more than 64


class Refused(Exception):
    """A well-formed pickle asks for something that is not plain data; the text names it."""


def set_byte_order(dtype: np.dtype, state: tuple) -> None:
    """Set a dtype's byte order, all that a file may choose of the state for `numpy.dtype.__setstate__`; raises Refused."""
    order = state[1].decode("ascii") if type(state[1]) is bytes else state[1]
    if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
        raise Refused("an unusual kind of NumPy dtype")
    own: Any = dtype
    version, own_order, *rest = own.__reduce__()[2]
    own.__setstate__((version, "|" if own_order == "|" else order, *rest))


def check_array(content: bytes | bytearray, dtype: np.dtype, shape: tuple) -> None:
    """Raise TypeError or ValueError if bytes are not the content of an array of numbers with this dtype and shape."""
    if not isinstance(dtype, np.dtype) or dtype == np.dtype(object) or type(content) not in (bytes, bytearray):
        raise TypeError("an array whose content is not bytes")
    if len(content) != array_size(shape) * dtype.itemsize:
        raise ValueError("the content of an array does not fit its shape")


def array_size(shape: tuple) -> int:
    """Return the number of elements; raises ValueError for what is not a shape."""
    if type(shape) is not tuple or not all(type(length) is int and 0 <= length < 2**48 for length in shape):
        raise ValueError("an invalid shape")
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"an array of {len(shape)} dimensions")
    return math.prod(shape)
