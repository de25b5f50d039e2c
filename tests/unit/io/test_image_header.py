"""The size in an image's header is that of its pixels, and a damaged header has none."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from arcface.io.image_header import image_size

WAYS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "comment": b"\xff\xc0\0\x11\x08\0\1\0\1"}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),  # the extended form
    ("BMP", {}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"big_endian": True}),
]


def written(format: str, size: tuple[int, int], mode: str = "RGB", **how) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format, **how)
    return file.getvalue()


@pytest.mark.parametrize("format, how", WAYS)
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (513, 1025)])
def test_the_size_is_that_of_the_pixels(format, how, size):
    assert image_size(written(format, size, **how)) == size


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_change_nothing(mode):
    assert image_size(written("JPEG", (9, 5), mode)) == (9, 5)


def test_rows_from_top_to_bottom_and_a_short_header_of_a_bmp():
    bmp = written("BMP", (9, 5))
    assert image_size(bmp[:22] + struct.pack("<i", -5) + bmp[26:]) == (9, 5)
    assert image_size(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 9, 5, 1, 24)) == (9, 5)


@pytest.mark.parametrize("format, how", WAYS)
def test_a_header_that_ends_early_has_no_size_or_the_right_one(format, how):
    image = written(format, (300, 7), **how)
    assert {image_size(image[:length]) for length in range(len(image))} <= {None, (300, 7)}
    generator = np.random.default_rng(0)
    for _ in range(300):  # nothing else is raised, and nothing runs forever
        damaged = bytearray(image)
        damaged[generator.integers(min(len(image), 64))] = generator.integers(256)
        image_size(bytes(damaged))


def test_other_formats_have_none():
    grey = cv2.imencode(".pgm", np.zeros((3, 4), np.uint8))[1].tobytes()
    assert image_size(grey) is image_size(b"") is image_size(b"no image") is None


def test_what_a_decoder_skips_before_a_marker_is_skipped():
    image = written("JPEG", (300, 7))
    assert image[20] == 0xFF  # after the first segment
    padded = image[:20] + b"\0junk\xff\0" * 10**4 + b"\xff" * 10**4 + image[20:]
    assert image_size(padded) == (300, 7)
    assert cv2.imdecode(np.frombuffer(padded, np.uint8), cv2.IMREAD_COLOR).shape == (7, 300, 3)
