"""Checks of NumPy arrays in pickles: dtype, byte order, shape and content, before NumPy sees them."""

import math
import re
from typing import Any

import numpy as np

# Numbers, fixed-length bytes and objects: what the files that we read contain, and valid with any content. Text is not: NumPy
# raises a SystemError for a code point that does not exist, long after loading.
DTYPE_CODES = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|O[48]?|S[1-9][0-9]{0,5}")
MAX_DIMENSIONS = 32  # of NumPy 1. NumPy 2.4 reads past its own buffer if a pickled array claims over 64.


class Refused(Exception):
    """The pickle is well-formed but asks for something that is not plain data; the text names it."""


def checked_dtype(code: str) -> np.dtype:
    """Return a new dtype, whose byte order `set_byte_order` may set in place; raises Refused for a code that is not admitted."""
    if not DTYPE_CODES.fullmatch(code):
        raise Refused(f"a NumPy array of dtype {code}")
    return np.dtype(code, copy=True)


def set_byte_order(dtype: np.dtype, state: tuple) -> None:
    """Do what `numpy.dtype.__setstate__` does, with NumPy's own state: a file chooses nothing but the byte order."""
    order = state[1].decode("ascii") if type(state[1]) is bytes else state[1]
    if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
        raise Refused("an unusual kind of NumPy dtype")
    own: Any = dtype
    version, own_order, *rest = own.__reduce__()[2]
    own.__setstate__((version, "|" if own_order == "|" else order, *rest))


def check_content(content: bytes | bytearray, dtype: np.dtype, shape: tuple) -> None:
    """Raise TypeError or ValueError unless bytes are the content of an array of numbers with this dtype and shape."""
    if not isinstance(dtype, np.dtype) or dtype == np.dtype(object) or type(content) not in (bytes, bytearray):
        raise TypeError("an array that is not made of bytes")
    if len(content) != size_of(shape) * dtype.itemsize:
        raise ValueError("an array and its shape do not agree")


def size_of(shape: tuple) -> int:
    """Return the number of elements of a shape; raises ValueError if it is not a tuple of at most 32 lengths."""
    if type(shape) is not tuple or not all(type(length) is int and 0 <= length < 2**48 for length in shape):
        raise ValueError("a shape that is not made of lengths")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"an array of {len(shape)} dimensions")
    return math.prod(shape)
