"""Writes data sets as InsightFace hands them around: train.rec, train.idx and property."""

from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from arcface.data.recordio import encode
from arcface.errors import UserError
from arcface.io.files import atomic_write
from arcface.io.images import SIZE

_LABELS = 2**24  # that float32 holds


def write_records(path: str | Path, images: Iterable[tuple[int, bytes]], overwrite: bool = False) -> None:
    """Write images and identities to `path`, the index to the .idx file and the number of people to property beside it.

    The records are those of InsightFace's packers: images 1, 2, ..., each with its label; record 0, which says where the
    identities' records are; and these, each with the range of its images. Numbers there are float32: beyond 16,777,216
    images the ranges are rounded, and readers need the images' labels. The files get their names when all is on the disk.

    Args:
        path: the .rec file; its directory exists.
        images: labels and encoded 112x112 images, sorted by label, each label from 0 up to the last with an image.
        overwrite: replace files that are there.

    Raises:
        UserError: a file exists and is not to be replaced, or cannot be written.
        ValueError: labels that are not in order, no images, or an image that is empty or too large.
    """
    path = Path(path)
    files = [path, path.with_suffix(".idx"), path.with_name("property")]
    for file in files:
        if file.exists() and not overwrite:
            raise UserError(f"{file}: exists already; choose another directory, or replace it on purpose")
    try:
        with ExitStack() as opened:
            record_file, index_file, property_file = (opened.enter_context(atomic_write(file)) for file in files)
            _write(record_file, index_file, property_file, images)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place or make room") from error


def _write(record_file: BinaryIO, index_file: BinaryIO, property_file: BinaryIO, images: Iterable[tuple[int, bytes]]) -> None:
    def write(key: int, labels, image: bytes = b"") -> None:
        index_file.write(b"%d\t%d\n" % (key, record_file.tell()))
        record_file.write(encode(labels, key, image))

    starts, key = array("q"), 0  # of the identities
    for key, (label, image) in enumerate(images, 1):
        if label == len(starts) < _LABELS:
            starts.append(key)
        if label != len(starts) - 1 or not image:
            raise ValueError(f"image {key} has label {label} and {len(image)} bytes, after {len(starts)} people")
        write(key, int(label), image)
    if not starts:
        raise ValueError("no images")
    starts.append(key + 1)
    people = len(starts) - 1
    write(0, [starts[-1], starts[-1] + people])
    for person in range(people):
        write(starts[-1] + person, starts[person : person + 2])
    property_file.write(b"%d,%d,%d\n" % (people, SIZE, SIZE))
