"""The MS1M-style dataset: a directory of images and a list with a line 'images/00000000.jpg<TAB>0' for each, or a .lst."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from arcface.data.datasets.labels import check_labels
from arcface.data.datasets.list_forms import Form, InsightFaceList, MxnetList, PathAndLabel, lst_form
from arcface.data.datasets.listed_images import ListedImages, leads_out
from arcface.errors import UserError
from arcface.io.files import open_file
from arcface.io.text import LONGEST_LINE, Block, blocks, count_lines

_LINES_AT_ONCE = 1 << 14


class _Listed(NamedTuple):
    """The images of a list.

    starts: where each image's line begins in the file, uint32, or int64 in a list of 4 GiB or more.
    labels: int64.
    ignored: for each line that names no image, how many images are above it.
    suspects: indices of images whose path may lead out of the directory.
    form: of the lines.
    """

    starts: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    suspects: np.ndarray
    form: Form


class LabelFile(ListedImages):
    """The training images of a label file, in its order. A file called .lst has MXNet's or InsightFace's form.

    labels: int64 [number of images], every class 0 .. num_classes - 1 occurs. Of the paths only the places of their lines
    are kept: a line is read again when its image is, and must then have the same label. A list that is replaced by another
    file meanwhile, as editors do it, stays what it was.
    """

    unit = "line"

    def __init__(
        self,
        data_dir: str | Path,
        label_file: str = "label.txt",
        num_classes: int | None = None,
        outside_paths: bool = False,
        gaps: bool = False,
    ):
        """Read the list; raises UserError that names file and line for what is wrong in it; `gaps` between labels may be right.

        That includes paths that lead out of `data_dir`, going by their text and not by links, unless `outside_paths`
        admits them.
        """
        self.directory = Path(data_dir)
        self.file = self.directory / label_file
        try:
            self._list = open_file(self.file)
            self._starts, self.labels, self._ignored, suspects, self._form = _read(self._list)
        except OSError as error:
            detail = error.strerror or error
            raise UserError(f"{self.file}: {detail}; pass the dataset with --data_dir and --label_file") from error
        for index in suspects if not outside_paths else ():
            if leads_out(self._path(index)):
                raise self.error_outside(index)
        self.num_classes = check_labels(self.labels, num_classes, self.file, self.place, "line", gaps)

    def number(self, index: int) -> int:
        """Return the number of an image's line, from 1."""
        return int(index + 1 + np.searchsorted(self._ignored, index, side="right"))

    def _path(self, index: int) -> bytes:
        start, end = int(self._starts[index]), self._end(index)
        before = min(start, 1)  # one byte, which ends the line above
        content = self._read_list(start - before, end)
        path, label = self._split(content[before:])
        if content[:before] not in (b"", b"\n", b"\r") or label != self.labels[index]:
            raise UserError(f"{self.place(index)}: the list was changed after it was opened; resume with --resume 1")
        return path

    def _paths(self) -> Iterator[bytes]:
        for first in range(0, len(self), _LINES_AT_ONCE):
            starts = self._starts[first : first + _LINES_AT_ONCE].tolist()
            content = self._read_list(starts[0], self._end(first + len(starts) - 1))
            for start, end in pairwise([*starts, starts[0] + len(content)]):
                yield self._split(content[start - starts[0] : end - starts[0]])[0]

    def _split(self, content: bytes) -> tuple[bytes, int]:
        """Return path and label of the first line, -1 where it has none."""
        try:
            return self._form.split(content.splitlines()[0])
        except (IndexError, ValueError):
            return b"", -1

    def _end(self, index: int) -> int:
        """Return a place behind the image's line, which may be behind lines that are ignored."""
        longest = int(self._starts[index]) + LONGEST_LINE
        return min(int(self._starts[index + 1]), longest) if index + 1 < len(self) else longest

    def _read_list(self, start: int, end: int) -> bytes:
        try:
            return os.pread(self._list.fileno(), end - start, start)
        except OSError as error:
            raise UserError(f"{self.file}: {error.strerror or error}; restore the list") from error


def _read(file: BinaryIO) -> _Listed:
    count = count_lines(file)
    starts = np.empty(count, np.uint32 if os.fstat(file.fileno()).st_size < 2**32 else np.int64)
    labels = np.empty(count, np.int64)
    filled, ignored, suspects = 0, [], []
    form: Form | None = None if file.name.endswith(".lst") else PathAndLabel()
    for block in blocks(file):
        counts, first = np.diff(block.first_words), block.first_words[:-1]
        first = np.minimum(first, len(block.starts) - 1)  # of a last line without words: not used
        named = counts > 0
        named[named] = block.text[block.starts[first[named]]] != ord("#")
        lines = np.flatnonzero(named)
        ignored.append(filled + np.cumsum(named)[~named])
        stop = filled + len(lines)
        starts[filled:stop] = block.offset + block.lines[lines]
        if len(lines):
            form = form or lst_form(block.line(lines[0]), f"{file.name} line {block.number + lines[0]}")
            labels[filled:stop] = form.labels(block, lines, file.name)
            suspects.append(filled + _suspects(block, lines, form.path_word))
        filled = stop
    if not filled or form is None:
        example = f"{MxnetList.example} or {InsightFaceList.example}" if form is None else form.example
        raise UserError(f"{file.name}: lists no images; each line is {example}")
    starts.resize(filled, refcheck=False)
    labels.resize(filled, refcheck=False)
    return _Listed(starts, labels, np.concatenate(ignored), np.concatenate(suspects), form)


def _suspects(block: Block, lines: np.ndarray, path_word: int) -> np.ndarray:
    """Return the positions in `lines` of those whose path begins with a slash, or that contain two dots."""
    suspect = block.text[block.starts[block.first_words[lines] + path_word]] == ord("/")
    if b".." in block.content:
        dots = np.flatnonzero((block.text[:-1] == ord(".")) & (block.text[1:] == ord(".")))
        suspect |= np.isin(lines, np.searchsorted(block.lines, dots, side="right") - 1)
    return np.flatnonzero(suspect)
