"""The MS1M-style data set: a directory of images and a list with a line 'images/00000000.jpg<TAB>0' for each."""

import os
import re
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np

from arcface import safe_pickle
from arcface.errors import UserError
from arcface.images import decode


class LabelFile:
    """The training images of a label file, in its order.

    labels: int64 [number of images], every class 0 .. num_classes - 1 occurs. The paths are kept in one array of
    bytes, so that worker processes share them however long they run.
    """

    def __init__(self, data_dir: str, label_file: str = "label.txt", num_classes: int | None = None):
        """Read the list; raises UserError that names file and line for what is wrong in it."""
        self.directory = Path(data_dir)
        self.file = self.directory / label_file
        self._paths, self.labels, self._lines = _read(self.file)
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
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.name(index)}: {error.strerror or error}; restore the file or remove the line") from error
        return _unpack(content, self.name(index)) if path.suffix == ".bin" else content

    def spread(self, images: int) -> np.ndarray:
        """Return the indices of `images` images spread evenly over the list, or of all if it has fewer."""
        return np.unique(np.linspace(0, len(self) - 1, min(images, len(self))).astype(np.int64))

    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the images that are listed before, ascending, and for each the index where it is first."""
        _, first, row = np.unique(self._paths, return_index=True, return_inverse=True)
        first = first[row]
        again = np.flatnonzero(first != np.arange(len(self)))
        return again, first[again]

    def scan(self, images: int) -> None:
        """Check that every listed file is there, and decode `images` of them, spread evenly over the list.

        Raises UserError for the first that is missing or not a 112x112 image.
        """
        self._check_files_exist()
        for index in self.spread(images):
            decode(self.encoded(index), self.name(index))

    def _path(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def _check_labels(self, num_classes: int | None) -> int:
        counts = np.bincount(self.labels)
        if (missing := np.flatnonzero(counts == 0)).size:
            line = self._lines[np.argmax(self.labels > missing[0])]
            raise UserError(
                f"{self.file} line {line}: labels must count up from 0 without a gap, but no line has label {missing[0]}"
                f" ({missing.size} missing below {len(counts)}); relabel the people"
            )
        if num_classes is not None and num_classes < len(counts):
            line = self._lines[np.argmax(self.labels >= num_classes)]
            raise UserError(
                f"{self.file} line {line}: label {self.labels.max()} is not below --num_classes {num_classes};"
                f" leave the option out to take {len(counts)} from the labels"
            )
        return num_classes or len(counts)

    def _check_files_exist(self) -> None:
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


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return paths (bytes), labels (int64) and line numbers (from 1) of a label file."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; give the data set with --data_dir and --label_file") from error
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
    else:
        return parts[0], int(parts[1])
    raise UserError(f"{file} line {number}: '{line.decode(errors='replace').strip()}' {complaint}; correct or remove the line")


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
