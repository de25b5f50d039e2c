"""Images to embed, wherever they are: a folder, a list, one image, a dataset or a .bin set."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from arcface.data.bin_file import read_bin
from arcface.data.datasets.base import open_dataset
from arcface.data.photos import photo_paths
from arcface.errors import UserError
from arcface.io.files import read_file

DATASETS = ".rec", ".lst", ".csv", ".parquet"
OF_A_DATASET = "train.rec", "train.lst"
LABEL_LIST = "label.txt"


@dataclass(frozen=True, eq=False)
class Images:
    """Images in an order.

    Attributes:
        paths: what each is called: its path relative to the folder or as in the list, or its place in a file of many.
        encoded: returns the bytes of the image at a position; raises UserError, which names it, if it cannot be read.
        labels: int64 [n], whom each shows; None if that is not known.
    """

    paths: list[str]
    encoded: Callable[[int], bytes]
    labels: np.ndarray | None = None


def open_images(source: str) -> Images:
    """Open images, in the first of these forms that fits.

    A directory: its label.txt; its train.rec or train.lst; all images below it, sorted. A file, by its ending: .bin is a
    verification set; .rec, .lst, .csv and .parquet are datasets; .txt is a list, a path a line, with a tab and a label where
    labels are known. Any other file is an image. Paths in a list are relative to its directory.

    Raises UserError if there is nothing to embed, or a list or dataset is damaged.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; pass images to embed")
    if path.is_dir():
        if os.path.lexists(path / LABEL_LIST):
            return _listed(path / LABEL_LIST)
        if any(os.path.lexists(path / name) for name in OF_A_DATASET):
            return _of_dataset(path)
        paths = photo_paths(path)
        if not paths:
            raise UserError(f"{path}: contains no image; pass another folder, a list or an image")
        return Images(paths, partial(_read, path, paths))
    if path.suffix == ".bin":
        pairs = read_bin(path)
        return Images([f"{path} image {number}" for number in range(len(pairs.images))], pairs.encoded)
    if path.suffix in DATASETS:
        return _of_dataset(path)
    if path.suffix == ".txt":
        return _listed(path)
    return Images([path.name], partial(_read, path.parent, [path.name]))


def _of_dataset(path: Path) -> Images:
    dataset = open_dataset(path, outside_paths=True, gaps=True)
    return Images([dataset.name(index) for index in range(len(dataset))], dataset.encoded, dataset.labels)


def _listed(file: Path) -> Images:
    try:
        lines = read_file(file).decode("utf-8-sig", "surrogateescape").split("\n")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; pass a list of images, a folder or an image") from error
    paths = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not paths:
        raise UserError(f"{file}: lists no image; each line is a path, or a path, a tab and a label")
    labels = None
    if all(re.fullmatch(r".+\t[0-9]{1,18}", line, re.DOTALL) for line in paths):
        labels = np.array([int(line.rpartition("\t")[2]) for line in paths], np.int64)
        paths = [line.rpartition("\t")[0] for line in paths]
    return Images(paths, partial(_read, file.parent, paths), labels)


def _read(folder: Path, paths: list[str], position: int) -> bytes:
    path = folder / paths[position]
    try:
        return read_file(path)
    except (OSError, ValueError) as error:  # a zero byte in a path is a ValueError
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}; restore the image") from error
