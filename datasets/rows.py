"""What convert.py, check.py and merge.py read: images of one or more data sets, with labels and people's names of their own."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arcface.data.datasets.image_folder import ImageFolder
from arcface.errors import UserError

NAMES = "names.txt"  # lines 'label<TAB>name', beside a label.txt, a .rec or the folders of people


@dataclass(frozen=True, eq=False)
class Rows:
    """Images of one or more sources with labels of their own; itself a source.

    sources: what open_dataset returned. source, index: uint8 and int64 [n], which source an image is of, and where in it.
    labels: int64 [n], from 0 without a gap. people: the name of each label, '' where it has none. old_labels: int64 [people],
    what each label was, where that is to be kept.
    """

    sources: list
    source: np.ndarray
    index: np.ndarray
    labels: np.ndarray
    people: list[str]
    old_labels: np.ndarray | None = None

    def __len__(self):
        return len(self.labels)

    def name(self, row):
        return self.sources[self.source[row]].name(int(self.index[row]))

    def encoded(self, row):
        image = self.sources[self.source[row]].encoded(int(self.index[row]))
        if not image:
            raise UserError(f"{self.name(row)}: the image is empty; datasets/check.py can write a copy without such images")
        return image

    def pick(self, rows):
        """Some of the rows; the people who are left keep their order and are numbered without a gap."""
        left, labels = np.unique(self.labels[rows], return_inverse=True)
        old_labels = None if self.old_labels is None else self.old_labels[left]
        people = [self.people[label] for label in left]
        return Rows(self.sources, self.source[rows], self.index[rows], labels, people, old_labels)

    def fingerprint(self):
        """16 bytes that tell other images or labels, as far as the sources' lists say."""
        seen = hashlib.blake2b(self.labels.tobytes(), digest_size=16)
        for part in self.source, self.index, *(str(source.file.resolve()).encode() for source in self.sources):
            seen.update(part)
        for source in self.sources:
            seen.update(os.fsencode(f"{source.name(0)}\n{source.name(len(source) - 1)}\n"))
        return seen.digest()


def whole(source):
    """All rows of a source."""
    return Rows([source], np.zeros(len(source), np.uint8), np.arange(len(source)), source.labels, people_of(source))


def relabelled(source):
    """All rows of a source that was opened with gaps between its labels: people keep their order, without a gap."""
    old_labels, labels = np.unique(source.labels, return_inverse=True)
    names = names_of(source)
    people = [names.get(label, "") for label in old_labels.tolist()]
    return Rows([source], np.zeros(len(source), np.uint8), np.arange(len(source)), labels, people, old_labels)


def people_of(source):
    """The names of a source's people by label, '' where there is none."""
    names = names_of(source)
    return [names.get(label, "") for label in range(source.num_classes)]


def names_of(source):
    """{label: name} of a source's people who have one, from names.txt or its folders."""
    folders = isinstance(source, ImageFolder)
    file = source.file / NAMES if folders else source.file.with_name(NAMES)
    if file.exists():
        return read_names(file, source.num_classes)
    if not folders:
        return {}
    first = np.unique(source.labels, return_index=True)[1]
    names = (Path(source.name(int(index))).parent.name for index in first)
    return {label: name for label, name in enumerate(names) if name != number_name(label)}


def read_names(file, people):
    """{label: name} of a names.txt, whose labels are below `people`."""
    names = {}
    try:
        lines = file.read_bytes().decode(errors="surrogateescape").split("\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); correct the permissions, or remove it") from error
    for number, line in enumerate(lines, 1):
        label, tab, name = line.partition("\t")
        if not line.strip():
            continue
        if not (tab and label.isascii() and label.isdecimal() and int(label) < people):
            raise UserError(f"{file} line {number}: '{line[:100]}' is not a label below {people}, a tab and a name; correct it")
        names[int(label)] = name
    return names


def number_name(label):
    """The folder of a person without a name."""
    return f"{label:07d}"
