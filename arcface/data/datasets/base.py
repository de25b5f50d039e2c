"""The protocol that datasets of every layout follow, and the function that opens one."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from arcface.data.datasets.image_folder import ImageFolder
from arcface.data.datasets.label_list import LabelFile
from arcface.data.datasets.record_file import RecordFile
from arcface.data.datasets.table import SUFFIXES, TableFile

_LABEL_FILE = "label.txt"
_RECORD_FILE = "train.rec"
_LST_FILE = "train.lst"


class Dataset(Protocol):
    """Training images and their labels.

    labels: int64 [number of images], every class 0 .. num_classes - 1 occurs unless the user gave more classes. file: what
    the dataset is called, a file or a directory. A dataset has no position in a file and no Python object per image:
    threads and forked processes share it, and its memory, however long they read.
    """

    file: Path
    labels: np.ndarray
    num_classes: int

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what messages call an image: which it is and where to find it."""

    def encoded(self, index: int) -> bytes:
        """Return the image's bytes (JPEG, PNG, ...); raises UserError if they cannot be read."""

    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of images that are listed again, ascending, and for each the index where it is first."""

    def scan(self, images: int) -> None:
        """Check what would take too long in every process, and decode `images` of the images, spread evenly.

        Raises UserError for the first that is missing or not a 112x112 image.
        """


def open_dataset(
    data_dir: str | Path,
    label_file: str = _LABEL_FILE,
    num_classes: int | None = None,
    outside_paths: bool = False,
    gaps: bool = False,
) -> Dataset:
    """Open a dataset, in whichever of these layouts it is.

    data_dir is a .rec file, a list (.txt, .lst, .csv, .parquet), or a directory. In a directory, `label_file` is used if it
    exists; only in place of a missing label.txt, train.rec is looked for, then train.lst, and then folders, one for each
    identity. `outside_paths` is for lists: whether their paths may lead out of the directory. With `gaps`, labels need not be
    all numbers from 0 up, which a dataset promises otherwise.

    Raises UserError that says where something is wrong: file and line, byte or row.
    """
    path = Path(data_dir)
    if path.suffix == ".rec" and not os.path.isdir(path):
        return RecordFile(path, num_classes, gaps)
    if path.suffix in (".txt", ".lst", *SUFFIXES) and not os.path.isdir(path):
        return _open_list(path.parent, path.name, num_classes, outside_paths, gaps)
    if label_file == _LABEL_FILE and not os.path.lexists(path / label_file):
        if os.path.lexists(path / _RECORD_FILE):
            return RecordFile(path / _RECORD_FILE, num_classes, gaps)
        if os.path.lexists(path / _LST_FILE):
            return _open_list(path, _LST_FILE, num_classes, outside_paths, gaps)
        if _has_folders(path):
            return ImageFolder(path, num_classes)
    return _open_list(path, label_file, num_classes, outside_paths, gaps)


def _open_list(directory: Path, name: str, num_classes: int | None, outside_paths: bool, gaps: bool) -> Dataset:
    list_class = TableFile if name.endswith(SUFFIXES) else LabelFile
    return list_class(directory, name, num_classes, outside_paths, gaps)


def _has_folders(directory: Path) -> bool:
    """Whether there are two folders or more: images/ alone is half of a dataset with a label.txt."""
    try:
        with os.scandir(directory) as entries:
            folders = (entry for entry in entries if not entry.name.startswith(".") and entry.is_dir())
            return next(folders, None) is not None and next(folders, None) is not None
    except OSError:
        return False
