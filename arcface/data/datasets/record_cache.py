"""Cache of the images in a .rec file: a file beside it, valid only for this very .rec and its .idx file."""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from arcface.io.files import atomic_write, open_file

# The file: a mark of the format, sizes and times of change of .rec and .idx, number of images; then the columns.
_FORMAT = b"arcface1"
_HEADER = struct.Struct("<8s5q")
_COLUMNS: tuple[np.dtype, ...] = (np.dtype("<i8"), np.dtype("<i4"))  # byte offsets, labels


def read_cache(record_file: Path) -> list[np.ndarray] | None:
    """Return byte offsets (int64) and labels (int32) of the images, each [number of images], if they are known."""
    try:
        with open_file(_cache_of(record_file)) as file:
            *stamp, images = _HEADER.unpack(file.read(_HEADER.size))
            size = os.fstat(file.fileno()).st_size
            if stamp != _stamp(record_file) or images < 1 or size != _HEADER.size + images * sum(c.itemsize for c in _COLUMNS):
                return None
            offsets, labels = (np.fromfile(file, column, images) for column in _COLUMNS)
    except (OSError, struct.error):
        return None
    # These would lead out of the file; whatever else is wrong is found when a record is read.
    sound = labels.min() >= 0 and offsets.min() >= 0 and offsets.max() < stamp[1]
    return [offsets, labels] if sound else None


def write_cache(record_file: Path, columns: Sequence[np.ndarray]) -> None:
    """Keep byte offsets and labels for the next time, if the directory can be written."""
    with suppress(OSError), atomic_write(_cache_of(record_file)) as file:
        file.write(_HEADER.pack(*_stamp(record_file), len(columns[0])))
        for dtype, column in zip(_COLUMNS, columns, strict=True):
            file.write(column.astype(dtype, copy=False).data)


def _cache_of(record_file: Path) -> Path:
    return record_file.with_name(f"{record_file.name}.cache")


def _stamp(record_file: Path) -> list:
    record, index_file = record_file.stat(), record_file.with_suffix(".idx")
    index = index_file.stat() if index_file.exists() else None
    return [_FORMAT, record.st_size, record.st_mtime_ns, index.st_size if index else -1, index.st_mtime_ns if index else -1]
