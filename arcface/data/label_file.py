"""The MS1M-style data set: a directory of images and a list with a line 'images/00000000.jpg<TAB>0' for each."""

import logging
import os
import re
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np

from arcface import safe_pickle
from arcface.errors import UserError
from arcface.files import read_file
from arcface.images import decode

LONGEST_PATH = 500  # bytes; each path takes as much memory as the longest

logger = logging.getLogger("arcface")


class LabelFile:
    """The training images of a label file, in its order.

    labels: int64 [number of images], every class 0 .. num_classes - 1 occurs. The paths are kept in one array of
    bytes, so that worker processes share them however long they run.
    """

    def __init__(self, data_dir: str, label_file: str = "label.txt", num_classes: int | None = None, outside_paths: bool = False):
        """Read the list; raises UserError that names file and line for what is wrong in it.

        That includes paths that lead out of `data_dir`, going by their text and not by links, unless `outside_paths`
        allows it.
        """
        self.directory = Path(data_dir)
        self.file = self.directory / label_file
        self._paths, self.labels, self._lines = _read(self.file)
        if not outside_paths:
            self._check_paths_stay_inside()
        self.num_classes = self._check_labels(num_classes)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return where an image is listed and which it is, for messages."""
        return f"{self.file} line {self._lines[index]}: {self._path(index)}"

    def encoded(self, index: int) -> bytes:
        """Return the image file's bytes (JPEG, PNG, ...); raises UserError if it cannot be read."""
        path = self.directory / self._path(index)
        try:
            content = read_file(path)
        except OSError as error:
            raise UserError(f"{self.name(index)}: {error.strerror or error}; restore the file or remove the line") from error
        return _unpack(content, self.name(index)) if path.suffix == ".bin" else content

    def spread(self, images: int) -> np.ndarray:
        """Return the indices of `images` images spread evenly over the list, or of all if it has fewer."""
        return np.unique(np.linspace(0, len(self) - 1, min(images, len(self))).astype(np.int64))

    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the images that are listed before, ascending, and for each the index where it is first."""
        first: dict[bytes, int] = {}
        pairs = [(index, first.setdefault(self._paths[index], index)) for index in _perhaps_repeated(self._paths)]
        again = [pair for pair in pairs if pair[0] != pair[1]]
        return tuple(np.array(again, np.int64).reshape(-1, 2).T)

    def scan(self, images: int) -> None:
        """Check that every listed file is there and has one label, and decode `images` of them, spread evenly over the list.

        Raises UserError for the first that is missing, has two labels or is not a 112x112 image. What is listed repeatedly
        with one label is a warning.
        """
        self.check_files_exist()
        self._check_repeated()
        for index in self.spread(images):
            decode(self.encoded(index), self.name(index))

    def check_files_exist(self) -> None:
        """Raise UserError for the first listed file that is not there."""
        # One listing of each directory instead of a look at each file: data sets lie on network file systems.
        indices = defaultdict(list)
        for index, path in enumerate(self._paths):
            indices[os.path.dirname(path)].append(index)
        for directory, members in indices.items():
            try:
                present = set(os.listdir(os.path.join(os.fsencode(self.directory), directory)))
            except OSError:
                present = set()
            for index in members:
                if os.path.basename(self._paths[index]) not in present:
                    raise UserError(f"{self.name(index)}: no such file; restore it or remove the line")

    def _path(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def _check_paths_stay_inside(self) -> None:
        characters = self._paths.view(np.uint8).reshape(len(self), -1)
        dots = characters == ord(".")
        for index in np.flatnonzero((characters[:, 0] == ord("/")) | (dots[:, 1:] & dots[:, :-1]).any(axis=1)):
            if f"{os.path.normpath(self._path(index))}/".startswith(("/", "../")):
                raise UserError(f"{self.name(index)}: leads out of --data_dir; correct it, or allow it with --outside_paths 1")

    def _check_labels(self, num_classes: int | None) -> int:
        # Labels beyond the number of images leave a gap below it; to count up to one of two billion would take 17 GB.
        counts = np.bincount(np.minimum(self.labels, len(self)))
        if (missing := np.flatnonzero(counts == 0)).size:
            line = self._lines[np.argmax(self.labels > missing[0])]
            raise UserError(
                f"{self.file} line {line}: labels must count up from 0 without a gap, but no line has label {missing[0]}"
                f" (the highest is {self.labels.max()}); relabel the people"
            )
        if num_classes is not None and num_classes < len(counts):
            line = self._lines[np.argmax(self.labels >= num_classes)]
            raise UserError(
                f"{self.file} line {line}: label {self.labels.max()} is not below --num_classes {num_classes};"
                f" leave the option out to take {len(counts)} from the labels"
            )
        if max(num_classes or 0, len(counts)) < 2:
            raise UserError(f"{self.file}: all images are of one person, label 0; list at least two people")
        return num_classes or len(counts)

    def _check_repeated(self) -> None:
        again, first = self.repeated()
        if (other := np.flatnonzero(self.labels[again] != self.labels[first])).size:
            indices = [first[other[0]], again[other[0]]]
            raise UserError(
                f"{self.file} lines {' and '.join(map(str, self._lines[indices]))}: {self._path(indices[0])} has label"
                f" {' and label '.join(map(str, self.labels[indices]))}; remove the wrong line"
            )
        if len(again):
            logger.warning("%s: %d lines repeat an earlier line; such an image counts as often as it is listed",
                           self.file, len(again))  # fmt: skip


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return paths (bytes), labels (int64) and line numbers (from 1) of a label file."""
    try:
        content = read_file(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; give the data set with --data_dir and --label_file") from error
    if (zero := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, zero) + 1
        raise UserError(f"{file} line {line}: holds a zero byte, as no text but UTF-16 does; save the list as UTF-8")
    paths, labels, lines = [], [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        path, label = _parse(line, file, number)
        paths.append(path)
        labels.append(label)
        lines.append(number)
    if not paths:
        raise UserError(f"{file}: lists no images; each line is 'images/00000000.jpg<TAB>0'")
    return np.array(paths), np.array(labels, np.int64), np.array(lines, np.int32)


def _parse(line: bytes, file: Path, number: int) -> tuple[bytes, int]:
    parts = line.strip().rsplit(None, 1)
    if len(parts) != 2 or not re.fullmatch(rb"[+-]?\d{1,18}", parts[1]):
        complaint = "is not a path, a tab and a whole number"
    elif not 0 <= int(parts[1]) < 2**31:
        complaint = "has a label that is not a class number from 0 up"
    elif len(parts[0]) > LONGEST_PATH:
        complaint = f"has a path of more than {LONGEST_PATH} bytes"
    else:
        return parts[0], int(parts[1])
    shown = line.strip()[:100].decode(errors="replace") + ("..." if len(line.strip()) > 100 else "")
    raise UserError(f"{file} line {number}: '{shown}' {complaint}; correct or remove the line")


def _perhaps_repeated(paths: np.ndarray) -> list[int]:
    """Return, ascending, the indices of all paths (bytes [n]) that occur more than once, and very rarely another.

    They are told by 64-bit hashes: to sort 5.8 million of these takes 0.1 s, and to sort as many paths 12 s.
    """
    width = -(-paths.itemsize // 8) * 8
    hashes = np.zeros(len(paths), np.uint64)
    for word in paths.astype(f"S{width}").view(np.uint64).reshape(len(paths), -1).T:
        hashes = (hashes ^ word) * np.uint64(0x9E3779B97F4A7C15)  # an odd number: no two hashes become one
        hashes ^= hashes >> np.uint64(32)
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return []
    places = np.searchsorted(repeated, hashes).clip(max=len(repeated) - 1)
    return np.flatnonzero(repeated[places] == hashes).tolist()


def _unpack(content: bytes, name: str) -> bytes:
    """Return the image in the 2021 toolkit's one-image record: uint32 length, key, uint32 length, pickled image bytes."""
    try:
        (key_length,) = struct.unpack_from("<I", content, 0)
        (value_length,) = struct.unpack_from("<I", content, 4 + key_length)
    except struct.error as error:
        raise UserError(f"{name}: not a one-image record (key and pickled image); write it again") from error
    value = content[8 + key_length : 8 + key_length + value_length]
    if len(value) != value_length:
        raise UserError(f"{name}: the record ends {value_length - len(value)} bytes early; write it again")
    image = safe_pickle.load(value, name)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = image.tobytes()
    if not isinstance(image, bytes):
        raise UserError(f"{name}: the record holds {type(image).__name__}, not the bytes of an image; write it again")
    return image
