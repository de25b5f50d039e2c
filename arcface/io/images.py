"""Decoding of face crops and photos: size, channel order and normalisation of every image are defined here."""

import os
from pathlib import Path

import cv2
import numpy as np

from arcface.errors import UserError
from arcface.io.files import read_file
from arcface.io.image_header import image_size

try:
    from simplejpeg import decode_jpeg
except ImportError:  # then OpenCV decodes every image
    decode_jpeg = None

SIZE = 112  # pixels, height and width: the ArcFace alignment template
HALF_RANGE = 127.5  # of the pixels' values: see `normalise`
MOST_PIXELS = 200_000_000  # of an image that is decoded: what the largest phone cameras make; 600 MB
WHOLE_PIXELS = 25_000_000  # of a photo that is decoded at its full size, where the codec can make it smaller
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}

if "OPENCV_LOG_LEVEL" not in os.environ:  # what is wrong with an image is in the UserError, in one line
    silence = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # of OpenCV 4 and of 5
    silence(0)

# By a file's first bytes, the marker that precedes its last pixels and the one that follows them: SOS and EOI in a JPEG, IDAT
# and the empty IEND chunk in a PNG.
_MARKERS = {b"\xff\xd8": (b"\xff\xda", b"\xff\xd9"), b"\x89P": (b"IDAT", b"IEND\xaeB`\x82")}


def read_image(path: str | Path) -> np.ndarray:
    """Read an aligned face crop, in any format that OpenCV reads, as uint8 [3, 112, 112], RGB.

    Raises UserError, which names the file, if it cannot be read or decoded, or has another size.
    """
    try:
        encoded = read_file(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; restore the image") from error
    return decode(encoded, str(path))


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Return a face crop as uint8 [3, 112, 112], RGB: a view that becomes contiguous when copied into a batch.

    Raises UserError, which starts with `name`, if the image cannot be decoded or has another size.
    """
    return channels_first(decode_crop(encoded, name))


def decode_crop(encoded: bytes, name: str, out: np.ndarray | None = None) -> np.ndarray:
    """Return a face crop in OpenCV's layout, uint8 [112, 112, 3], BGR; raises what `decode` raises.

    If `out`, a contiguous array, is given, the crop is written to it; after an error its content is undefined.
    """
    crop = np.empty((SIZE, SIZE, 3), np.uint8) if out is None else out
    if _is_truncated(encoded) or not _decode_jpeg(encoded, crop):
        image = decode_any_size(encoded, name)
        if image.shape[:2] != (SIZE, SIZE):
            height, width = image.shape[:2]
            raise UserError(f"{name}: the image is {width}x{height} pixels, not {SIZE}x{SIZE}; align and crop it first")
        crop[:] = image
    return crop


def decode_any_size(encoded: bytes, name: str) -> np.ndarray:
    """Return an image in OpenCV's layout, uint8 [height, width, 3], BGR, turned as its Exif data say; of several, the first.

    Raises UserError, which starts with `name`, if it cannot be decoded, or its header claims more than MOST_PIXELS.
    """
    return _decode(encoded, name, cv2.IMREAD_COLOR)


def decode_photo(encoded: bytes, name: str) -> np.ndarray:
    """Return a photo as `decode_any_size` does, but a JPEG of more than WHOLE_PIXELS at a half to an eighth of its size."""
    width, height = image_size(encoded) or (0, 0)
    if not encoded.startswith(b"\xff\xd8") or width * height <= WHOLE_PIXELS:
        return _decode(encoded, name, cv2.IMREAD_COLOR)
    factor = next((factor for factor in _REDUCED if width * height <= WHOLE_PIXELS * factor**2), max(_REDUCED))
    return _decode(encoded, name, _REDUCED[factor])


def _decode(encoded: bytes, name: str, how: int) -> np.ndarray:
    if _is_truncated(encoded):
        raise UserError(f"{name}: truncated image ({len(encoded)} bytes, end marker missing); replace or remove it")
    width, height = image_size(encoded) or (0, 0)
    if width * height > MOST_PIXELS:
        raise UserError(f"{name}: the image is {width}x{height} pixels, more than {MOST_PIXELS:,}; scale it down or remove it")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), how) if encoded else None
    except cv2.error:  # for example, a header that claims more pixels than OpenCV accepts
        image = None
    if image is None:
        raise UserError(f"{name}: not an image that OpenCV can decode ({len(encoded)} bytes); replace or remove it")
    return image


def mostly_black(image: np.ndarray) -> bool:
    """Whether more than half of an image's pixels, uint8 [height, width, 3], are exactly 0.

    Alignment fills what lies outside the photo with black, so wrong landmarks give a small face on black. One of 6,078 crops of
    CelebA is mostly black, and none of LFW's 7,701.
    """
    black = (0, 0, 0)
    return 2 * cv2.countNonZero(cv2.inRange(image, black, black)) > image.shape[0] * image.shape[1]


def _decode_jpeg(encoded: bytes, crop: np.ndarray) -> bool:
    """Decode a JPEG into `crop`, faster than OpenCV and to the same pixels; return whether that was possible.

    Damaged images, other sizes, and images with Exif data, which may ask for a rotation, are left to OpenCV.
    """
    if decode_jpeg is None or not encoded.startswith(b"\xff\xd8") or b"Exif\0\0" in encoded[:500]:
        return False
    try:
        return decode_jpeg(encoded, "BGR", buffer=crop).shape == crop.shape
    except ValueError:
        return False


def _is_truncated(encoded: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker, also where a full disk left zeros, which a decoder may turn into pixels."""
    before, after = _MARKERS.get(encoded[:2], (b"", b""))
    return not encoded.endswith(after) and encoded.rfind(after) < encoded.rfind(before)


def channels_first(image: np.ndarray) -> np.ndarray:
    """Return a view as [3, height, width], RGB, of an image in OpenCV's layout, [height, width, 3], BGR."""
    return image.transpose(2, 0, 1)[::-1]


def batch_channels_first(images: np.ndarray) -> np.ndarray:
    """Return images, uint8 [n, height, width, 3], BGR, as contiguous [n, 3, height, width], RGB; 7 times as fast as NumPy."""
    count, height, width, _ = images.shape
    batch = np.empty((count, 3, height, width), np.uint8)
    planes = batch.reshape(count, 3, -1)
    cv2.split(images.reshape(count, -1, 3), [planes[:, 2], planes[:, 1], planes[:, 0]])  # OpenCV sees each image as one row
    return batch


def normalise(images):
    """Return uint8 images (NumPy array or Paddle tensor) as float32 in [-1, 1], the input of backbones."""
    return (images.astype("float32") - HALF_RANGE) / HALF_RANGE
