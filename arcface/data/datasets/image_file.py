"""Image files by themselves, as lists and folders name them."""

import struct
from collections.abc import Callable

import numpy as np

from arcface.errors import UserError
from arcface.io import safe_pickle
from arcface.io.files import read_file

_ONE_IMAGE_RECORD = b".bin"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # of images, in either case
_SUFFIXES = (*map(str.encode, ENDINGS), _ONE_IMAGE_RECORD)


def is_image_name(name: bytes) -> bool:
    """Whether a file of this name counts as an image or a one-image record."""
    return name.lower().endswith(_SUFFIXES)


def read_image(path: bytes, name: Callable[[], str], remedy: str) -> bytes:
    """Return an image file's bytes, or of the image inside where it is a one-image record.

    Raises UserError with what `name` returns, and if the file cannot be read with the `remedy`.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise UserError(f"{name()}: {error.strerror or error}; {remedy}") from error
    return _unpack(content, name()) if path.endswith(_ONE_IMAGE_RECORD) else content


def _unpack(content: bytes, name: str) -> bytes:
    """Return the image in the 2021 toolkit's one-image record: uint32 length, key, uint32 length, pickled image bytes."""
    try:
        (key_length,) = struct.unpack_from("<I", content, 0)
        (value_length,) = struct.unpack_from("<I", content, 4 + key_length)
    except struct.error as error:
        raise UserError(f"{name}: not a one-image record (key and pickled image); write it again") from error
    value = content[8 + key_length : 8 + key_length + value_length]
    if len(value) != value_length:
        raise UserError(f"{name}: the record ends {value_length - len(value)} bytes early; write it again")
    image = safe_pickle.load(value, name)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = image.tobytes()
    if not isinstance(image, bytes):
        raise UserError(f"{name}: the record contains {type(image).__name__}, not the bytes of an image; write it again")
    return image
