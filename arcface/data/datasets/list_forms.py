"""The forms of a line in a list of training images: ours, that of MXNet's im2rec and that of InsightFace's packers.

    images/00000000.jpg<TAB>0       ours, in any file but a .lst: a path, tabs or spaces, and a label
    0<TAB>3.000000<TAB>a/b.jpg      MXNet's .lst: an index, a label, perhaps with zeros behind a point, and a path
    1<TAB>a/b.jpg<TAB>3             InsightFace's .lst: 1 for an aligned image, a path and a label; what follows is ignored

The fields of a .lst have tabs between them.
"""

import re
from abc import ABC, abstractmethod

import numpy as np

from arcface.errors import UserError
from arcface.io.text import BYTE_ORDER_MARK, Block, shown, whole_numbers

_LONGEST_PATH = 4095  # bytes that Linux takes
_MAX_LABEL = 2**31 - 1
_INTEGER = re.compile(rb"[+-]?\d{1,18}")
_NUMBER = re.compile(rb"[+-]?\d{1,18}(\.\d*)?")
_ZEROS = b".000000"  # im2rec writes its labels so


class Form(ABC):
    """What stands where in a line.

    path_word: which word, counted from 0, the path begins with. example: a line, for messages.
    """

    path_word: int
    example: str

    @abstractmethod
    def split(self, line: bytes) -> tuple[bytes, int]:
        """Return path and label of a line; raises ValueError that says what is wrong with it."""

    def labels(self, block: Block, lines: np.ndarray, name: str) -> np.ndarray:
        """Return the labels of some lines of a block, int64; raises UserError for the first that is wrong."""
        labels, sound = self._at_once(block, block.first_words[lines], block.first_words[lines + 1] - 1)
        for at in np.flatnonzero(~sound | (labels > _MAX_LABEL)):
            line = block.line(lines[at])
            try:
                path, labels[at] = self.split(line)
                if len(path) > _LONGEST_PATH:
                    raise ValueError(f"has a path of more than {_LONGEST_PATH} bytes")
            except ValueError as error:
                where = f"{name} line {block.number + lines[at]}"
                raise UserError(f"{where}: '{shown(line)}' {error}; correct or remove the line") from error
        return labels

    @abstractmethod
    def _at_once(self, block: Block, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of lines, int64, given their first and last words, and whether each is surely right, bool."""


class PathAndLabel(Form):
    """Ours. The path may have spaces."""

    path_word = 0
    example = "'images/00000000.jpg<TAB>0'"

    def split(self, line: bytes) -> tuple[bytes, int]:
        *path, label = line.removeprefix(BYTE_ORDER_MARK).rsplit(None, 1) or [b""]
        if not path or not _INTEGER.fullmatch(label):
            raise ValueError("is not a path, a tab and a whole number")
        return path[0].strip(), _class_number(label)

    def _at_once(self, block: Block, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels, sound = whole_numbers(block, last)
        return labels, sound & (last > first) & (block.ends[np.maximum(last - 1, 0)] - block.starts[first] <= _LONGEST_PATH)


class _Tabbed(Form):
    """A .lst: fields with tabs between them. A path may have spaces."""

    label_word: int

    def _at_once(self, block: Block, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Form` says; lines of other than three words are looked at one by one."""
        sound = last == first + 2
        lead, second, third = (np.where(sound, first + word, first) for word in range(3))
        label, path = (second, third) if self.label_word == 1 else (third, second)
        labels, is_number = whole_numbers(_without_zeros(block, label), label)
        leads = whole_numbers(block, lead)
        sound &= is_number & leads[1] & self._may_lead(leads[0]) & (block.ends[path] - block.starts[path] <= _LONGEST_PATH)
        for word in lead, second:
            sound &= block.text[np.minimum(block.ends[word], len(block.text) - 1)] == ord("\t")
        return labels, sound

    def _may_lead(self, number: np.ndarray) -> np.ndarray:
        """Whether lines may begin with these numbers."""
        return np.ones(len(number), bool)


class MxnetList(_Tabbed):
    """The .lst that MXNet's im2rec writes and reads."""

    path_word, label_word = 2, 1
    example = "MXNet's '0<TAB>3.000000<TAB>a/b.jpg'"

    def split(self, line: bytes) -> tuple[bytes, int]:
        fields = _fields(line)
        if len(fields) < 3 or not all(map(_NUMBER.fullmatch, fields[:2])) or not fields[-1]:
            raise ValueError("is not an index, a tab, a label, a tab and a path, as the first line")
        if len(fields) > 3:
            raise ValueError(f"has {len(fields) - 2} labels, where one is needed")
        return fields[2], _class_number(fields[1])


class InsightFaceList(_Tabbed):
    """The .lst that InsightFace's packers read."""

    path_word, label_word = 1, 2
    example = "InsightFace's '1<TAB>a/b.jpg<TAB>3'"

    def split(self, line: bytes) -> tuple[bytes, int]:
        fields = _fields(line)
        if len(fields) < 3 or fields[0] not in (b"0", b"1") or not fields[1] or not _NUMBER.fullmatch(fields[2]):
            raise ValueError("is not 1, a tab, a path, a tab and a label, as the first line")
        if fields[0] == b"0":
            raise ValueError("is of an image that is not aligned; align it with datasets/align.py and begin the line with 1")
        return fields[1], _class_number(fields[2])

    def _may_lead(self, number: np.ndarray) -> np.ndarray:
        return number == 1


def lst_form(line: bytes, name: str) -> Form:
    """Return the form of a .lst file by its first line, of whose second and last fields one is a number and one a path.

    Raises UserError that shows both forms.
    """
    fields = _fields(line)
    if len(fields) >= 3 and _NUMBER.fullmatch(fields[0]):
        second, third, last = (bool(_NUMBER.fullmatch(fields[at])) for at in (1, 2, -1))
        if second and not last:
            return MxnetList()
        if third and not second and fields[0] in (b"0", b"1"):
            return InsightFaceList()
    raise UserError(f"{name}: '{shown(line)}' is neither {MxnetList.example} nor {InsightFaceList.example}; correct the list")


def _fields(line: bytes) -> list[bytes]:
    return [field.strip() for field in line.removeprefix(BYTE_ORDER_MARK).split(b"\t")]


def _class_number(text: bytes) -> int:
    """Return a label that may have zeros behind a point; raises ValueError where it is no class number."""
    whole, _, behind = text.partition(b".")
    label = int(whole)
    if behind.strip(b"0") or not 0 <= label <= _MAX_LABEL:
        raise ValueError("has a label that is not a class number from 0 up")
    return label


def _without_zeros(block: Block, words: np.ndarray) -> Block:
    """Return the block with the zeros that im2rec writes behind the point cut off the given words."""
    points = block.ends[words] - len(_ZEROS)
    cut = points > block.starts[words]
    for place, byte in enumerate(_ZEROS):
        cut &= block.text[np.where(cut, points + place, 0)] == byte
    ends = block.ends.copy()
    ends[words[cut]] = points[cut]
    return block._replace(ends=ends)
