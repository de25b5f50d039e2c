"""Images as crops on the template: of photos, with a detector of faces, or of files that are such crops already."""

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from arcface.data.alignment import align
from arcface.data.detector import FaceDetector
from arcface.data.landmarks import complaint
from arcface.errors import UserError
from arcface.io.files import read_file
from arcface.io.image_header import image_size
from arcface.io.images import SIZE, channels_first, decode_crop, decode_photo

PHOTOS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
Faces = Literal["largest", "all"]


class CropReader:
    """Reads images as crops on the template; threads may share it.

    Every image is a photo if there is a detector, and otherwise a 112x112 crop. "largest" is the main face of a photo: of
    several, the one that is large and near the middle, which datasets/align.py takes too.

    Args:
        detector: file of a YuNet model (.onnx); None for images that are crops.
        faces: which faces of a photo.

    Raises:
        UserError: the detector cannot be opened.
        ValueError: other faces.
    """

    def __init__(self, detector: str | Path | None = None, faces: Faces = "largest"):
        if faces not in get_args(Faces):
            raise ValueError(f"faces are {' or '.join(get_args(Faces))}, not {faces}")
        self._detector = FaceDetector(str(detector)) if detector else None
        self._faces = faces

    def read(self, path: str | Path) -> list[np.ndarray]:
        """Return the crops of an image file, each uint8 [3, 112, 112], RGB: one, or for "all" one or more, the main face first.

        Raises UserError, which starts with the path, if it cannot be read or decoded, shows no face or is no crop.
        """
        try:
            encoded = read_file(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; restore the image") from error
        return self.decode(encoded, str(path))

    def decode(self, encoded: bytes, name: str) -> list[np.ndarray]:
        """Return the crops of an encoded image, which messages call `name`; otherwise as `read`."""
        if self._detector:
            return self.find(decode_photo(encoded, name), name)
        size = image_size(encoded)
        if size not in (None, (SIZE, SIZE)):
            raise _not_a_crop(name, *size)
        return [channels_first(decode_crop(encoded, name))]

    def find(self, image: np.ndarray, name: str) -> list[np.ndarray]:
        """Return the crops of a decoded image, uint8 [height, width, 3], BGR; otherwise as `decode`."""
        if self._detector is None:
            if image.shape[:2] != (SIZE, SIZE):
                raise _not_a_crop(name, image.shape[1], image.shape[0])
            return [channels_first(image)]
        landmarks = self._detector.landmarks(image)
        if not len(landmarks):
            raise UserError(f"{name}: no face found; use a photo that shows one")
        if self._faces == "largest":
            landmarks = landmarks[:1]
        wrong = [complaint(points) for points in landmarks]
        if all(wrong):
            raise UserError(f"{name}: {wrong[0]}; use another photo")
        return [channels_first(align(image, points)) for points, problem in zip(landmarks, wrong, strict=True) if not problem]


def photo_paths(folder: Path) -> list[str]:
    """Return the paths of all images below a folder, relative to it, sorted; links to folders are not followed.

    Raises UserError if a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); correct the path or its permissions") from error

    walk = os.walk(folder, onerror=refuse)
    found = (os.path.join(directory, name) for directory, _, names in walk for name in names)
    return sorted(os.path.relpath(path, folder) for path in found if os.path.splitext(path)[1].lower() in PHOTOS)


def _not_a_crop(name: str, width: int, height: int) -> UserError:
    return UserError(
        f"{name}: the image is {width}x{height} pixels, not a {SIZE}x{SIZE} crop; pass a --detector to find the face in it"
    )
