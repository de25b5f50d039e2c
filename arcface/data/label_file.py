"""The MS1M-style data set: a directory of images and a list with a line 'images/00000000.jpg<TAB>0' for each."""

import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from arcface.data.labels import check_labels
from arcface.data.lines import BYTE_ORDER_MARK, LONGEST_LINE, Block, blocks, count_lines, shown, whole_numbers
from arcface.data.listed_images import ListedImages, leads_out
from arcface.errors import UserError
from arcface.files import open_file

_LONGEST_PATH = 4095  # bytes that Linux takes
_MAX_LABEL = 2**31 - 1
_ROWS_AT_ONCE = 1 << 14


class _Rows(NamedTuple):
    """The lines of a list that name images: where each begins in the file (uint32, or int64 in a list of 4 GiB or more), its
    label (int64). For each line that is passed over, how many rows are above it. Rows whose path may lead out of a directory.
    """

    starts: np.ndarray
    labels: np.ndarray
    passed_over: np.ndarray
    suspects: np.ndarray


class LabelFile(ListedImages):
    """The training images of a label file, in its order.

    labels: int64 [number of images], every class 0 .. num_classes - 1 occurs. Of the paths only the places of their lines
    are kept: a line is read again when its image is, and must then have the same label. A list that is replaced by another
    file meanwhile, as editors do it, stays what it was.
    """

    unit = "line"

    def __init__(self, data_dir: str | Path, label_file: str = "label.txt", num_classes: int | None = None,
                 outside_paths: bool = False):  # fmt: skip
        """Read the list; raises UserError that names file and line for what is wrong in it.

        That includes paths that lead out of `data_dir`, going by their text and not by links, unless `outside_paths`
        admits them.
        """
        self.directory = Path(data_dir)
        self.file = self.directory / label_file
        try:
            self._list = open_file(self.file)
            self._starts, self.labels, self._passed_over, suspects = _read(self._list)
        except OSError as error:
            detail = error.strerror or error
            raise UserError(f"{self.file}: {detail}; give the data set with --data_dir and --label_file") from error
        for index in suspects if not outside_paths else ():
            if leads_out(self._path(index)):
                raise self.error_outside(index)
        self.num_classes = check_labels(self.labels, num_classes, self.file, self.place, "line")

    def number(self, index: int) -> int:
        """Return the number of an image's line, from 1."""
        return int(index + 1 + np.searchsorted(self._passed_over, index, side="right"))

    def _path(self, index: int) -> bytes:
        start, end = int(self._starts[index]), self._end(index)
        before = min(start, 1)  # one byte, which ends the line above
        content = self._read_list(start - before, end)
        path, label = _split(content[before:])
        if content[:before] not in (b"", b"\n", b"\r") or label != self.labels[index]:
            raise UserError(f"{self.place(index)}: the list has been changed since it was opened; start again with --resume 1")
        return path

    def _paths(self) -> Iterator[bytes]:
        for first in range(0, len(self), _ROWS_AT_ONCE):
            starts = self._starts[first : first + _ROWS_AT_ONCE].tolist()
            content = self._read_list(starts[0], self._end(first + len(starts) - 1))
            for start, end in pairwise([*starts, starts[0] + len(content)]):
                yield _split(content[start - starts[0] : end - starts[0]])[0]

    def _end(self, index: int) -> int:
        """Return a place behind the image's line, which may be one behind lines that are passed over."""
        longest = int(self._starts[index]) + LONGEST_LINE
        return min(int(self._starts[index + 1]), longest) if index + 1 < len(self) else longest

    def _read_list(self, start: int, end: int) -> bytes:
        try:
            return os.pread(self._list.fileno(), end - start, start)
        except OSError as error:
            raise UserError(f"{self.file}: {error.strerror or error}; restore the list") from error


def _read(file: BinaryIO) -> _Rows:
    lines = count_lines(file)
    starts = np.empty(lines, np.uint32 if os.fstat(file.fileno()).st_size < 2**32 else np.int64)
    labels = np.empty(lines, np.int64)
    filled, passed_over, suspects = 0, [], []
    for block in blocks(file):
        counts, first = np.diff(block.first_words), block.first_words[:-1]
        first = np.minimum(first, len(block.starts) - 1)  # of a last line without words: not used
        named = counts > 0
        named[named] = block.text[block.starts[first[named]]] != ord("#")
        rows = np.flatnonzero(named)
        passed_over.append(filled + np.cumsum(named)[~named])
        suspects.append(filled + _suspects(block, rows))
        stop = filled + len(rows)
        starts[filled:stop] = block.offset + block.lines[rows]
        labels[filled:stop] = _labels(block, rows, file.name)
        filled = stop
    if not filled:
        raise UserError(f"{file.name}: lists no images; each line is 'images/00000000.jpg<TAB>0'")
    starts.resize(filled, refcheck=False)
    labels.resize(filled, refcheck=False)
    return _Rows(starts, labels, np.concatenate(passed_over), np.concatenate(suspects))


def _labels(block: Block, rows: np.ndarray, name: str) -> np.ndarray:
    """Return the labels of lines; raises UserError for the first that is not a path and a label."""
    first, last = block.first_words[rows], block.first_words[rows + 1] - 1
    labels, sound = whole_numbers(block, last)
    sound &= (last > first) & (labels <= _MAX_LABEL)
    sound &= block.ends[np.maximum(last - 1, 0)] - block.starts[first] <= _LONGEST_PATH
    for row in np.flatnonzero(~sound):
        line = block.line(rows[row])
        *path, label = line.rsplit(None, 1)
        if not path or not re.fullmatch(rb"[+-]?\d{1,18}", label):
            complaint = "is not a path, a tab and a whole number"
        elif not 0 <= int(label) <= _MAX_LABEL:
            complaint = "has a label that is not a class number from 0 up"
        elif len(path[0]) > _LONGEST_PATH:
            complaint = f"has a path of more than {_LONGEST_PATH} bytes"
        else:
            labels[row] = int(label)  # it has a sign
            continue
        raise UserError(f"{name} line {block.number + rows[row]}: '{shown(line)}' {complaint}; correct or remove the line")
    return labels


def _suspects(block: Block, rows: np.ndarray) -> np.ndarray:
    """Return the positions in `rows` of the lines that begin with a slash or hold two dots."""
    suspect = block.text[block.starts[block.first_words[rows]]] == ord("/")
    if b".." in block.content:
        dots = np.flatnonzero((block.text[:-1] == ord(".")) & (block.text[1:] == ord(".")))
        suspect |= np.isin(rows, np.searchsorted(block.lines, dots, side="right") - 1)
    return np.flatnonzero(suspect)


def _split(content: bytes) -> tuple[bytes, int]:
    """Return path and label of the first line, -1 where it has none."""
    try:
        path, label = content.splitlines()[0].removeprefix(BYTE_ORDER_MARK).rsplit(None, 1)
        return path.strip(), int(label)
    except (IndexError, ValueError):
        return b"", -1
