"""The dataset of a .rec file of MXNet with its .idx and property, as InsightFace hands datasets around."""

import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from arcface.data.datasets.labels import check_labels, evenly_spread
from arcface.data.datasets.record_cache import read_cache, write_cache
from arcface.data.recordio import Header, RecordReader
from arcface.errors import UserError
from arcface.io.files import open_file
from arcface.io.images import SIZE, decode
from arcface.io.text import Block, blocks, count_lines, shown, whole_numbers

_COMPARED = 1000  # images whose own label is compared with that of the identity records
_EXACT = 2**24  # float32, in which the file has its numbers, represents every whole number up to here
_AT_ONCE = 1 << 17
_MAX_EXTENT = 2**32 - 1


class _Index(NamedTuple):
    """An .idx file: keys (uint32) and byte offsets (int64) of the records, as listed."""

    keys: np.ndarray
    offsets: np.ndarray


class _Images(NamedTuple):
    """The records that are images: their byte offsets (int64) and labels."""

    offsets: np.ndarray
    labels: np.ndarray


class RecordFile:
    """The images of a .rec file, in the order of its .idx file or, where there is none, of the file itself.

    labels: int64 [number of images], every class 0 .. num_classes - 1 occurs. In InsightFace's layout they come from the
    identity records; otherwise from a pass over the headers of all records, whose result is kept beside the file if it can
    be. Whenever an image is read, its own label is compared.
    """

    def __init__(self, path: str | Path, num_classes: int | None = None, gaps: bool = False):
        """Read index, labels and property; raises UserError that names file and byte, or line, for what is wrong in them.

        With `gaps`, numbers may be left out between the labels, and the number of identities in property is not compared.
        """
        self.file = Path(path)
        self._reader = RecordReader(self.file)
        known = read_cache(self.file) or _from_identities(self._reader)
        self._offsets, labels = images = known or _from_headers(self._reader)
        self.labels = labels.astype(np.int64, copy=False)
        self._extents = _extents(self._offsets, self._reader)
        self.num_classes = check_labels(self.labels, num_classes, self.file, self.name, "record", gaps)
        if not gaps:
            _check_property(self.file.with_name("property"), int(self.labels.max()) + 1)
        if not known:
            write_cache(self.file, images)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return where an image lies, for messages."""
        return f"{self.file} byte {self._offsets[index]}"

    def encoded(self, index: int) -> bytes:
        """Return the image's bytes (JPEG, PNG, ...); raises UserError if the record is not sound or has another label."""
        offset = self._offsets.item(index)  # Python's numbers, with which all that follows is several times as fast
        label, image = self._reader.read_image(offset, offset + self._extents.item(index))
        if label != self.labels.item(index):
            raise self._reader.error(offset, f"its label is {label:g}, not {self.labels[index]} as its identity's")
        return image

    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return no indices: an image is in one place."""
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def scan(self, images: int) -> None:
        """Decode `images` of the images, spread evenly over the file; raises UserError for the first that is not 112x112."""
        for index in evenly_spread(len(self), images):
            decode(self.encoded(index), self.name(index))


def _read_index(reader: RecordReader) -> _Index | None:
    """Return the .idx file of a record file, None if there is none."""
    file = reader.path.with_suffix(".idx")
    try:
        with open_file(file) as opened:
            lines, filled = count_lines(opened), 0
            index = _Index(np.empty(lines, np.uint32), np.empty(lines, np.int64))
            for block in blocks(opened):
                part = slice(filled, filled := filled + len(block.lines))
                _parse_index(block, index.keys[part], index.offsets[part], reader)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); correct the permissions, or remove it") from error
    if not filled:
        raise UserError(f"{file}: lists no records; download it again, or remove it")
    return index


def _parse_index(block: Block, keys: np.ndarray, offsets: np.ndarray, reader: RecordReader) -> None:
    """Fill in the keys and offsets of a block's lines."""
    complaint = "is not a key, a tab and a byte offset"
    if (sound := np.diff(block.first_words) == 2).all():
        (numbers, sound), (offsets[:], sound_offsets) = (whole_numbers(block, block.first_words[:-1] + column) for column in (0, 1))
        keys[:] = numbers
        sound &= (numbers == keys) & sound_offsets
    if sound.all():
        sound, complaint = (offsets % 4 == 0) & (offsets < reader.size), f"is no place in the {reader.size} bytes of {reader.path}"
    if not sound.all():
        line = int(np.argmin(sound))
        raise UserError(
            f"{reader.path.with_suffix('.idx')} line {block.number + line}: '{shown(block.line(line))}' {complaint};"
            " download the index of this very file, or remove it"
        )


def _from_identities(reader: RecordReader) -> _Images | None:
    """Return the images of InsightFace's layout, None where the file has another or its labels cannot be told from it.

    Record 0 has the labels (1 + images, 1 + images + identities). The records 1, 2, ... are the images, and behind them is
    one for each identity, with the labels (its first image, one past its last image). Other packers write no such records,
    and for record 0 what readers make do with: (1 + images, identities), or twice a number.

    Raises UserError if the index lists fewer records than record 0 says that there are images.
    """
    index = _read_index(reader)
    if not index:
        return None
    at_zero = np.flatnonzero(index.keys == 0)
    if len(at_zero) != 1:
        return None
    offset = int(index.offsets[at_zero[0]])
    header = reader.read(offset, reader.size)
    if header.image or len(header.labels) != 2:
        return None  # an image like any other
    first, last = header.labels
    if first.is_integer() and len(index.keys) < first <= _EXACT:
        listed = len(index.keys) - 1
        raise reader.error(offset, f"by the header record there are {first - 1:g} images, the index lists {listed} other records")
    if not (first.is_integer() and last.is_integer() and 1 < first < last == len(index.keys)):
        return None  # it names no range, or not that of all records behind the images
    images = int(first) - 1
    if last > _EXACT or index.keys.max() >= len(index.keys):
        return None
    offsets = np.full(len(index.keys), -1)
    for start in range(0, len(offsets), _AT_ONCE):  # at once, the keys would take twice their memory
        part = slice(start, start + _AT_ONCE)
        offsets[index.keys[part]] = index.offsets[part]
    del index  # as large as all that is left
    if offsets.min() < 0:
        return None
    counts = _identity_sizes(reader, offsets[images + 1 :], images)
    if counts is None:
        return None
    labels, ids = np.repeat(np.arange(len(counts)), counts), _Ids(reader)
    for image in evenly_spread(images, _COMPARED):
        own = reader.read_header(offset := int(offsets[image + 1]), reader.size)
        ids.compare(image + 1, offset, own)
        if own.label != labels[image]:
            return None
    ids.check()
    return _Images(offsets[1 : images + 1], labels)


def _identity_sizes(reader: RecordReader, offsets: np.ndarray, images: int) -> np.ndarray | None:
    """Return how many images each identity has, None unless the identities' records share them out one after the other."""
    ranges = np.empty((len(offsets), 2))
    for row, offset in enumerate(offsets):
        record = reader.read(int(offset), reader.size)
        if record.image or len(record.labels) != 2:
            return None
        ranges[row] = record.labels
    counts = np.diff(np.append(ranges[:, 0], images + 1))
    shared_out = ranges[0, 0] == 1 and (ranges[:, 1] - ranges[:, 0] == counts).all()
    return counts.astype(np.int64) if shared_out and (counts >= 0).all() and (counts % 1 == 0).all() else None


def _from_headers(reader: RecordReader) -> _Images:
    """Return the records that hold an image, with the first label in each; reads the header of every record."""
    offsets, labels, ids = array("q"), array("i"), _Ids(reader)
    for key, offset, header in _headers(reader):
        if header.image_bytes == 0:
            continue  # it says something about other records
        ids.compare(key, offset, header)
        if not (header.label.is_integer() and 0 <= header.label < _EXACT):
            raise reader.error(offset, f"its label {header.label:g} is not a class number")
        offsets.append(offset)
        labels.append(int(header.label))
    ids.check()
    if not offsets:
        raise UserError(f"{reader.path}: contains no images; download it again")
    return _Images(np.frombuffer(offsets, np.int64), np.frombuffer(labels, np.int32))


class _Ids:
    """Tells records that call themselves by other numbers than the index does, in a file where most have the index's.

    Packers other than InsightFace's give no ids, and shuffled copies keep those of the original.
    """

    def __init__(self, reader: RecordReader):
        self._reader, self._same, self._different, self._first = reader, 0, 0, (0, "")

    def compare(self, key: int, offset: int, header: Header) -> None:
        """Note whether the index's key is the id."""
        if key == header.id:
            self._same += 1
            return
        self._different += 1
        if self._different == 1:
            self._first = offset, f"the index has record {key} here, which calls itself {header.id}"

    def check(self) -> None:
        """Raise UserError if records with other ids are the exception."""
        if 0 < self._different < self._same:
            raise self._reader.error(*self._first)


def _headers(reader: RecordReader) -> Iterator[tuple[int, int, Header]]:
    """Yield key, byte offset and header of the records that the index lists, or of all where there is none, whose key then is
    their id; with a progress bar."""
    if index := _read_index(reader):
        with tqdm(index.offsets, f"reading {reader.path}", unit=" records", mininterval=1, disable=None) as offsets:
            for key, offset in zip(index.keys, offsets, strict=True):
                yield int(key), int(offset), reader.read_header(int(offset), reader.size)
    else:
        with tqdm(None, f"reading {reader.path}", reader.size, unit="B", unit_scale=True, mininterval=1, disable=None) as bar:
            for offset, end, header in reader.headers():
                yield header.id, offset, header
                bar.update(end - offset)


def _extents(offsets: np.ndarray, reader: RecordReader) -> np.ndarray:
    """Return how many bytes there are from each record to the next one in the file, or to the file's end, as uint32."""
    extents = np.empty(len(offsets), np.uint32)
    for start in range(0, len(offsets), _AT_ONCE):
        gaps = np.diff(offsets[start : start + _AT_ONCE + 1], append=[reader.size] * (start + _AT_ONCE >= len(offsets)))
        if gaps.min() < 0:
            order = np.argsort(offsets)
            extents[order] = _extents(offsets[order], reader)
            return extents
        if gaps.min() == 0:
            raise reader.error(int(offsets[start + np.argmin(gaps)]), "the index has two records here")
        extents[start : start + len(gaps)] = np.minimum(gaps, _MAX_EXTENT)
    return extents


def _check_property(file: Path, classes: int) -> None:
    """Raise UserError if InsightFace's file of 'identities,height,width' exists and disagrees."""
    try:
        with open_file(file) as opened:
            content = opened.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); correct the permissions, or remove it") from error
    numbers = re.fullmatch(rb"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", content)
    expected = (classes, SIZE, SIZE)
    if not numbers or tuple(map(int, numbers.groups())) != expected:
        raise UserError(
            f"{file}: '{shown(b' '.join(content.split()))}' where the records say"
            f" '{','.join(map(str, expected))}'; download the files that belong together, or remove this one"
        )
