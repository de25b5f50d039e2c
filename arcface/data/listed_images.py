"""Image files that a list names, whatever the list's format."""

import logging
import os
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arcface.data.image_file import read_image
from arcface.data.labels import evenly_spread
from arcface.errors import UserError
from arcface.images import decode

_AT_ONCE = 1 << 18  # names of files that are looked up in the list at once

logger = logging.getLogger("arcface")


def leads_out(path: bytes) -> bool:
    """Whether a path leads out of the directory that it is relative to, going by its text and not by links."""
    return os.path.normpath(path).startswith((b"/", b"../")) or os.path.normpath(path) == b".."


class ListedImages:
    """What all lists have in common.

    A list sets `directory`, to which its paths are relative, `file`, `labels` (int64 [number of images]) and `num_classes`,
    and says what stands where by `place`, `_path` and `_paths`.
    """

    directory: Path
    file: Path
    labels: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, index: int) -> str:
        """Return where in the list an image stands, for messages."""
        raise NotImplementedError

    def _path(self, index: int) -> bytes:
        raise NotImplementedError

    def _paths(self) -> Iterator[bytes]:
        """Yield all paths in order, faster than one by one."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return where an image is listed and which it is, for messages."""
        return f"{self.place(index)}: {os.fsdecode(self._path(index))}"

    def encoded(self, index: int) -> bytes:
        """Return the image file's bytes (JPEG, PNG, ...); raises UserError if it cannot be read."""
        path = os.path.join(os.fsencode(self.directory), self._path(index))
        return read_image(path, partial(self.name, index), "restore the file or remove the line")

    def scan(self, images: int) -> None:
        """Check that every listed file is there, and decode `images` of them, spread evenly over the list.

        Raises UserError for the first that is missing or not a 112x112 image, and if an image is listed with two labels.
        Images that are listed again with the same label are a warning.
        """
        self._check_paths()
        for index in evenly_spread(len(self), images):
            decode(self.encoded(index), self.name(index))

    def error_outside(self, index: int) -> UserError:
        """Return the error for a path that leads out of the directory."""
        return UserError(f"{self.name(index)}: leads out of --data_dir; correct it, or admit such paths with --outside_paths 1")

    def _check_paths(self) -> None:
        """Look for files that are missing, and for paths that are repeated.

        Paths are told apart by 64-bit hashes: 8 bytes for each image, where as many Python strings take a gigabyte. Each
        directory is listed, instead of a look at each file, because data sets lie on network file systems.
        """
        directories: set[bytes] = set()

        def hash_of(path: bytes) -> int:
            directories.add(path[: path.rfind(b"/") + 1])
            return hash(path)

        hashes = np.fromiter(map(hash_of, self._paths()), np.int64, len(self))
        hashes.sort()
        if (repeated := hashes[1:][hashes[1:] == hashes[:-1]]).size:
            self._check_repeated(set(repeated.tolist()))
            hashes = np.unique(hashes)
        found = np.zeros(len(hashes), bool)
        present = (hash(directory + name) for directory in directories for name in self._listed(directory))
        with tqdm(present, f"looking for the files of {self.file}", unit=" files", mininterval=1, disable=None) as bar:
            while len(some := np.fromiter(islice(bar, _AT_ONCE), np.int64)):
                at = np.minimum(np.searchsorted(hashes, some), len(hashes) - 1)
                found[at[hashes[at] == some]] = True
        if not found.all():
            missing = hashes[~found]
            for index, path in enumerate(self._paths()):
                at = bisect_left(missing, hash(path))
                if at < len(missing) and missing[at] == hash(path):
                    raise UserError(f"{self.name(index)}: no such file; restore it or remove the line")

    def _check_repeated(self, repeated: set[int]) -> None:
        first: dict[bytes, int] = {}
        count = 0
        for index, path in enumerate(self._paths()):
            if hash(path) in repeated:
                earlier = first.setdefault(path, index)
                count += index != earlier
                if self.labels[index] != self.labels[earlier]:
                    raise UserError(
                        f"{self.name(index)} has label {self.labels[index]}, and label {self.labels[earlier]} in"
                        f" {self.place(earlier)}; remove the wrong line"
                    )
        logger.warning("%s: %d lines repeat an earlier line; such an image counts as often as it is listed", self.file, count)

    def _listed(self, directory: bytes) -> Iterator[bytes]:
        """Yield the names in a directory, none if it cannot be listed."""
        try:
            with os.scandir(os.path.join(os.fsencode(self.directory), directory)) as entries:
                yield from (entry.name for entry in entries)
        except OSError:
            return
