"""The dataset of a directory with a folder for each identity: <identity>/<image>."""

import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from arcface.data.datasets.image_file import ENDINGS, is_image_name, read_image
from arcface.data.datasets.labels import check_labels, evenly_spread
from arcface.errors import UserError
from arcface.io.images import decode

logger = logging.getLogger("arcface")


class ImageFolder:
    """The images in the folders of a directory: identities are labelled 0, 1, ... by the order of their folders' names.

    labels: int64 [number of images]; images are ordered by identity and name. Hidden files are ignored. What else is no
    image by its name, and folders without images, are left out, and `scan` warns of them. The names are kept as one run
    of bytes, so that worker processes share them however long they run.
    """

    def __init__(self, directory: str | Path, num_classes: int | None = None):
        """List all folders; raises UserError if one cannot be read, or fewer than two identities have images."""
        self.file = Path(directory)
        self._left_out, self._odd_one = 0, ""
        identities, counts, sizes = [], [], []
        names, lengths = bytearray(), bytearray()
        for identity, images in self._folders():
            identities.append(identity)
            counts.append(len(images))
            lengths += bytes(map(len, images))
            names += (joined := b"".join(images))
            sizes.append(len(joined))
        if not identities:
            raise self._error_no_images()
        self._identities = np.array(identities)
        self._names, self._lengths = np.frombuffer(names, np.uint8), np.frombuffer(lengths, np.uint8)
        self._first_names, self._first_images = np.cumsum([0, *sizes]), np.cumsum([0, *counts])
        self.labels = np.repeat(np.arange(len(identities)), counts)
        self.num_classes = check_labels(self.labels, num_classes, self.file, self.name, "folder")

    def _error_no_images(self) -> UserError:
        if not self._odd_one or self._odd_one.endswith("/"):
            return UserError(f"{self.file}: contains no folders of images; pass a directory with a folder for each identity")
        return UserError(
            f"{self.file}: contains folders, but no images in them whose names end in {', '.join(ENDINGS)}, only {self._odd_one};"
            " save such images as PNG, or rename them if they are one of these kinds"
        )

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return an image's path, for messages."""
        return os.fsdecode(self._path(index))

    def encoded(self, index: int) -> bytes:
        """Return the image file's bytes (JPEG, PNG, ...); raises UserError if it cannot be read."""
        return read_image(self._path(index), partial(self.name, index), "restore the file")

    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return no indices: an image is in one place."""
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def scan(self, images: int) -> None:
        """Decode `images` of the images, spread evenly over the folders; raises UserError for the first that is not 112x112."""
        if self._left_out:
            logger.warning(
                "%s: left out %d files and folders without an image, such as %s", self.file, self._left_out, self._odd_one
            )
        for index in evenly_spread(len(self), images):
            decode(self.encoded(index), self.name(index))

    def _path(self, index: int) -> bytes:
        label = self.labels[index]
        start = self._first_names[label] + self._lengths[self._first_images[label] : index].sum(dtype=np.int64)
        name = self._names[start : start + self._lengths[index]].tobytes()
        return os.path.join(os.fsencode(self.file), self._identities[label], name)

    def _folders(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield the name of each identity's folder and the names of the images in it, both sorted."""
        root = os.fsencode(self.file)
        for identity in _listed(root):
            folder = os.path.join(root, identity)
            if not os.path.isdir(folder):
                continue  # lists, verification sets and the like lie beside the folders
            names = _listed(folder)
            images = [name for name in names if is_image_name(name)]
            if images:
                yield identity, images
            if not images or len(images) < len(names):
                self._left_out += len(names) - len(images) or 1
                odd = next((name for name in names if not is_image_name(name)), b"")
                self._odd_one = self._odd_one or os.fsdecode(os.path.join(folder, odd))


def _listed(directory: bytes) -> list[bytes]:
    """Return the names in a directory without the hidden ones, sorted."""
    try:
        return sorted(name for name in os.listdir(directory) if not name.startswith(b"."))
    except OSError as error:
        where = os.fsdecode(directory)
        raise UserError(f"{where}: cannot be listed ({error.strerror or error}); correct the path or the permissions") from error
