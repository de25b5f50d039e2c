"""Image files that a list names, whatever the list's format."""

import logging
import os
import shlex
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arcface.data.datasets.image_file import read_image
from arcface.data.datasets.labels import evenly_spread
from arcface.errors import UserError
from arcface.io.images import decode

_AT_ONCE = 1 << 16  # names of files that are looked up in the list at once

logger = logging.getLogger("arcface")


def leads_out(path: bytes) -> bool:
    """Whether a path leads out of the directory that it is relative to, going by its text and not by links."""
    return (os.path.normpath(path) + b"/").startswith((b"/", b"../"))


class ListedImages:
    """What all lists have in common.

    A list sets `directory`, to which its paths are relative, `file`, `labels` (int64 [number of images]) and `num_classes`,
    and says what stands where: `unit` is what its parts are called, such as "line".
    """

    directory: Path
    file: Path
    labels: np.ndarray
    num_classes: int
    unit: str

    def number(self, index: int) -> int:
        """Return the number of an image's line or row, as an editor counts."""
        raise NotImplementedError

    def _path(self, index: int) -> bytes:
        raise NotImplementedError

    def _paths(self) -> Iterator[bytes]:
        """Yield all paths in order, faster than one by one."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, index: int) -> str:
        """Return where in the list an image stands, for messages."""
        return f"{self.file} {self.unit} {self.number(index)}"

    def name(self, index: int) -> str:
        """Return where an image is listed and which it is, for messages."""
        return f"{self.place(index)}: {os.fsdecode(self._path(index))}"

    def encoded(self, index: int) -> bytes:
        """Return the image file's bytes (JPEG, PNG, ...); raises UserError if it cannot be read."""
        path = os.path.join(os.fsencode(self.directory), self._path(index))
        return read_image(path, partial(self.name, index), f"restore the file or remove the {self.unit}")

    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the images that are listed before, ascending, and for each the index where it is first."""
        return self._repeated(self._sorted_hashes()[0])

    def lines(self, labels: np.ndarray) -> Iterator[bytes]:
        """Yield the lines of a label file with the same paths and other labels, int64 [number of images].

        Raises UserError for a path that cannot stand in one.
        """
        for index, (path, label) in enumerate(zip(self._paths(), labels.tolist(), strict=True)):
            if path != path.strip() or path.startswith(b"#") or set(path) & set(b"\n\r\0"):
                raise UserError(f"{self.name(index)}: such a path cannot stand in a label.txt; rename the file")
            yield b"%b\t%d\n" % (path, label)

    def scan(self, images: int) -> None:
        """Check that every listed file exists, and decode `images` of them, spread evenly over the list.

        Raises UserError for the first that is missing or not a 112x112 image, and if an image is listed with two labels.
        Images that are listed again with the same label are a warning.
        """
        hashes, directories = self._sorted_hashes()
        again, first = self._repeated(hashes)
        for index, earlier in zip(again, first, strict=True):
            if self.labels[index] != self.labels[earlier]:
                where, path = f"{self.unit}s {self.number(earlier)} and {self.number(index)}", os.fsdecode(self._path(index))
                raise UserError(
                    f"{self.file} {where}: {path} has label {self.labels[earlier]} and label {self.labels[index]};"
                    f" remove the wrong {self.unit}"
                )
        if len(again):
            logger.warning(
                "%s: %d %ss repeat an earlier %s; such an image counts as often as it is listed",
                self.file,
                len(again),
                self.unit,
                self.unit,
            )
        self._check_files_exist(hashes, directories)
        for index in evenly_spread(len(self), images):
            decode(self.encoded(index), self.name(index))

    def error_outside(self, index: int) -> UserError:
        """Return the error for a path that leads out of the directory."""
        return UserError(f"{self.name(index)}: leads out of --data_dir; correct it, or allow it with --outside_paths 1")

    def _sorted_hashes(self) -> tuple[np.ndarray, set[bytes]]:
        """Return 64-bit hashes of the paths, which as Python strings would take a gigabyte, and the paths' directories."""
        directories = set()

        def hash_of(path: bytes) -> int:
            directories.add(path[: path.rfind(b"/") + 1])
            return hash(path)

        hashes = np.fromiter(map(hash_of, self._paths()), np.int64, len(self))
        hashes.sort()
        return hashes, directories

    def _repeated(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        again, first = array("q"), array("q")
        if repeated := set(hashes[1:][hashes[1:] == hashes[:-1]].tolist()):
            first_of: dict[bytes, int] = {}
            for index, path in enumerate(self._paths()):
                if hash(path) in repeated and (earlier := first_of.setdefault(path, index)) != index:
                    again.append(index)
                    first.append(earlier)
        return np.array(again, np.int64), np.array(first, np.int64)

    def _check_files_exist(self, hashes: np.ndarray, directories: set[bytes]) -> None:
        """Raise UserError for the first image whose file is missing, given the paths' hashes in ascending order."""
        if not (different := np.append(True, hashes[1:] != hashes[:-1])).all():
            hashes = hashes[different]
        # One listing of each directory instead of a look at each file: datasets lie on network file systems.
        present = (hash(directory + name) for directory in directories for name in self._listed(directory))
        found = np.zeros(len(hashes), bool)
        with tqdm(None, f"looking for the files of {self.file}", unit=" files", mininterval=1, disable=None) as bar:
            while len(some := np.fromiter(islice(present, _AT_ONCE), np.int64)):
                at = np.minimum(np.searchsorted(hashes, some), len(hashes) - 1)
                found[at[hashes[at] == some]] = True
                bar.update(len(some))
        if not found.all():
            missing = hashes[~found]
            for index, path in enumerate(self._paths()):
                place = bisect_left(missing, hash(path))
                if place < len(missing) and missing[place] == hash(path):
                    raise UserError(f"{self.name(index)}: no such file; {self._remedy(path)}")

    def _remedy(self, missing: bytes) -> str:
        """Return what to do about a path that does not exist."""
        with_slashes = missing.replace(b"\\", b"/")
        if with_slashes != missing and os.path.lexists(os.path.join(os.fsencode(self.directory), with_slashes)):
            as_in = f", as in: sed -i 's|\\\\|/|g' {shlex.quote(str(self.file))}" if self.unit == "line" else ""
            return f"one with slashes in place of its backslashes exists: replace them in the list{as_in}"
        return f"restore it or remove the {self.unit}"

    def _listed(self, directory: bytes) -> Iterator[bytes]:
        """Yield the names in a directory, none if it cannot be listed."""
        try:
            with os.scandir(os.path.join(os.fsencode(self.directory), directory)) as entries:
                yield from (entry.name for entry in entries)
        except OSError:
            return
