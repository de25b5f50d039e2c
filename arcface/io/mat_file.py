"""Lists of names and numbers in MATLAB's .mat files, read by SciPy, which comes with scikit-learn."""

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from arcface.errors import UserError
from arcface.io.files import read_file

# Far above any list of images, and far below a machine's memory.
_MOST_ENTRIES = 10**8
_MOST_BYTES = 2**28

# Of MAT-File Level 5 (MathWorks, "MAT-File Format"): the byte order by two bytes of the header, and the type of an element that
# is compressed.
_HEADER, _ORDERS, _COMPRESSED = 128, {b"IM": "<", b"MI": ">"}, 15


def read_names_and_numbers(path: Path, names: str, numbers: str) -> tuple[list[str], np.ndarray]:
    """Return two variables of a .mat file: a cell array of n > 0 strings, and as many whole numbers, int64 [n].

    Raises:
        UserError: the file cannot be read, is damaged or of another kind, lacks a variable, or would take far more memory than
            such lists.
    """
    from scipy.io import loadmat, whosmat

    try:
        content = read_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; restore the file") from error
    try:
        _check_inflated_size(content)
        entries = sum(math.prod(shape) for _, shape, _ in whosmat(io.BytesIO(content)))
        if entries > _MOST_ENTRIES:
            raise ValueError(f"claims {entries:,} entries")
        variables = loadmat(io.BytesIO(content), variable_names=[names, numbers])
        texts = [np.asarray(cell).item() for cell in np.ravel(variables[names])]
        values = np.ravel(variables[numbers])
        if not texts or len(texts) != len(values) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{names} and {numbers} are not as many names as numbers")
        if values.dtype.kind not in "iuf" or (values != (whole := values.astype(np.int64))).any():
            raise ValueError(f"{numbers} are not whole numbers")
    # SciPy raises what its parser runs into: KeyError, TypeError, struct.error, NotImplementedError for HDF5 and others.
    except Exception as error:
        raise UserError(f"{path}: damaged, or not a .mat file with {names} and {numbers} ({error}); download it again") from error
    return texts, whole


def _check_inflated_size(content: bytes) -> None:
    """Raise ValueError if the compressed elements of a file are larger than _MOST_BYTES; inflates no more than that."""
    order, at, total = _ORDERS.get(content[_HEADER - 2 : _HEADER]), _HEADER, 0
    while order and at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        at += 8
        if kind == _COMPRESSED:
            total += len(zlib.decompressobj().decompress(content[at : at + size], _MOST_BYTES + 1 - total))
        if total > _MOST_BYTES:
            raise ValueError(f"it inflates to more than {_MOST_BYTES:,} bytes")
        at += size
