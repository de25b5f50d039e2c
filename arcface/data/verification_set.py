"""A verification set: pairs of face images, from a .bin, a folder or a list."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arcface.data.datasets.image_file import read_image
from arcface.data.photos import CropReader
from arcface.io.images import decode


@dataclass(frozen=True, eq=False)
class VerificationSet:
    """Pairs of face images.

    Attributes:
        name: what log lines call the set, such as "lfw".
        images: 2n images, of which images[2 * i] and images[2 * i + 1] are pair i: either encoded, or files, which are read only
            when they are needed. Equal entries are one image.
        is_same: bool [n], whether pair i shows one identity.
        folds: into how many blocks of consecutive pairs the accuracy divides the set.
        kind: what the log says of a set that is no .bin.
        reader: makes the crops of files; None for encoded images, which are crops.
    """

    name: str
    images: Sequence[bytes | Path]
    is_same: np.ndarray
    folds: int = 10
    kind: str = ""
    reader: CropReader | None = None

    def distinct(self) -> dict[bytes | Path, int]:
        """Return each image once, with the position in `images` where it occurs first."""
        positions: dict[bytes | Path, int] = {}
        for position, image in enumerate(self.images):
            positions.setdefault(image, position)
        return positions

    def label(self, position: int) -> str:
        """Return what messages call the image at a position."""
        image = self.images[position]
        return str(image) if isinstance(image, Path) else f"{self.name}.bin image {position}"

    def encoded(self, position: int) -> bytes:
        """Return the bytes of the image at a position; raises UserError if its file cannot be read."""
        image = self.images[position]
        return read_image(os.fsencode(image), image.__str__, "restore the file") if isinstance(image, Path) else image

    def crop(self, position: int) -> np.ndarray:
        """Return the face at a position as uint8 [3, 112, 112], RGB; raises UserError if its image is damaged or has no face."""
        encoded, label = self.encoded(position), self.label(position)
        return self.reader.decode(encoded, label)[0] if self.reader else decode(encoded, label)
