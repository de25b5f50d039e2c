"""Encoded face crops to arrays; the one place that knows size and channel order."""

from pathlib import Path

import cv2
import numpy as np

from arcface.errors import UserError
from arcface.io.files import read_file

try:
    from simplejpeg import decode_jpeg
except ImportError:  # OpenCV does all
    decode_jpeg = None

SIZE = 112  # pixels, height and width: the ArcFace alignment template
HALF_RANGE = 127.5  # of the pixels' values: see `normalise`

# By a file's first bytes, what comes before the last of its pixels and after them: JPEG's markers SOS and EOI, PNG's chunks.
# All PNGs end with the same chunk, which has no content.
_MARKS = {b"\xff\xd8": (b"\xff\xda", b"\xff\xd9"), b"\x89P": (b"IDAT", b"IEND\xaeB`\x82")}


def read_image(path: str | Path) -> np.ndarray:
    """Read an aligned face crop, a JPEG or another format of OpenCV's, as uint8 [3, 112, 112], RGB.

    Raises:
        UserError: that names the file, which cannot be read or decoded or has another size.
    """
    try:
        encoded = read_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; restore the image") from error
    return decode(encoded, str(path))


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Return a face crop as uint8 [3, 112, 112], RGB; it is a view, made contiguous when it is copied into a batch.

    `name` says in a UserError which image cannot be decoded or has another size.
    """
    return channels_first(decode_crop(encoded, name))


def decode_crop(encoded: bytes, name: str, out: np.ndarray | None = None) -> np.ndarray:
    """Return a face crop as OpenCV has it, uint8 [112, 112, 3], BGR; errors are those of `decode`.

    It is in `out` if that is given, a contiguous array, which holds anything after an error.
    """
    crop = np.empty((SIZE, SIZE, 3), np.uint8) if out is None else out
    if _is_cut_off(encoded) or not _decode_jpeg(encoded, crop):
        image = decode_any_size(encoded, name)
        if image.shape[:2] != (SIZE, SIZE):
            height, width = image.shape[:2]
            raise UserError(f"{name}: the image is {width}x{height} pixels, not {SIZE}x{SIZE}; align and crop it first")
        crop[:] = image
    return crop


def decode_any_size(encoded: bytes, name: str) -> np.ndarray:
    """Return an image as OpenCV has it, uint8 [height, width, 3], BGR; `name` says in a UserError which cannot be decoded."""
    if _is_cut_off(encoded):
        raise UserError(f"{name}: not an image but the beginning of one ({len(encoded)} bytes, no end); replace or remove it")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    except cv2.error:  # such as a header that claims more pixels than OpenCV accepts
        image = None
    if image is None:
        raise UserError(f"{name}: not an image that OpenCV can decode ({len(encoded)} bytes); replace or remove it")
    return image


def mostly_black(image: np.ndarray) -> bool:
    """Whether over half of the pixels of an image, uint8 [height, width, 3], are exactly 0.

    What lies outside of a photo is black in its crop: one by wrong landmarks is a small face on black. Of 6,078 crops of CelebA
    one is black to more than half, of LFW's 7,701 none.
    """
    black = (0, 0, 0)
    return 2 * cv2.countNonZero(cv2.inRange(image, black, black)) > image.shape[0] * image.shape[1]


def _decode_jpeg(encoded: bytes, crop: np.ndarray) -> bool:
    """Decode a JPEG into `crop`, to the same pixels as OpenCV but sooner; return whether that was possible.

    Left to OpenCV is what is not sound or has another size, and what Exif, near the beginning, may want to be turned.
    """
    if decode_jpeg is None or not encoded.startswith(b"\xff\xd8") or b"Exif\0\0" in encoded[:500]:
        return False
    try:
        return decode_jpeg(encoded, "BGR", buffer=crop).shape == crop.shape
    except ValueError:
        return False


def _is_cut_off(encoded: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. A disk that ran full may have left zeros there, which can decode to pixels."""
    before, after = _MARKS.get(encoded[:2], (b"", b""))
    return not encoded.endswith(after) and encoded.rfind(after) < encoded.rfind(before)


def channels_first(image: np.ndarray) -> np.ndarray:
    """Return a view of OpenCV's [height, width, 3], BGR, as [3, height, width], RGB."""
    return image.transpose(2, 0, 1)[::-1]


def batch_channels_first(images: np.ndarray) -> np.ndarray:
    """Return what `channels_first` does for each of uint8 [n, height, width, 3], contiguous; seven times as fast as NumPy."""
    count, height, width, _ = images.shape
    batch = np.empty((count, 3, height, width), np.uint8)
    planes = batch.reshape(count, 3, -1)
    cv2.split(images.reshape(count, -1, 3), [planes[:, 2], planes[:, 1], planes[:, 0]])  # for OpenCV, an image is a row
    return batch


def normalise(images):
    """Return uint8 images (NumPy array or Paddle tensor) as float32 between -1 and 1, what backbones are fed."""
    return (images.astype("float32") - HALF_RANGE) / HALF_RANGE
