"""Images become RGB arrays between -1 and 1."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from arcface.errors import UserError
from arcface.images import channels_first, decode, normalise, write_channels_first


def test_decoding_gives_rgb_channels_first():
    red = np.zeros((112, 112, 3), np.uint8)
    red[:50, :, 2] = 255  # OpenCV writes BGR
    image = decode(cv2.imencode(".png", red)[1].tobytes(), "red")
    assert image.shape == (3, 112, 112) and image.dtype == np.uint8
    assert (image[0, :50] == 255).all() and (image[0, 50:] == 0).all() and (image[1:] == 0).all()


def test_a_grey_image_is_read_as_rgb():
    grey = np.full((112, 112), 77, np.uint8)
    assert (decode(cv2.imencode(".png", grey)[1].tobytes(), "grey") == 77).all()


def test_a_header_that_claims_absurd_sizes_is_refused():
    png = bytearray(cv2.imencode(".png", np.zeros((112, 112, 3), np.uint8))[1].tobytes())
    png[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(UserError, match="huge: not an image"):
        decode(bytes(png), "huge")


def test_channels_first_are_written_in_place():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    batch = np.zeros((3, 3, 112, 112), np.uint8)
    for given in (image, image[:, ::-1]):  # contiguous or not
        write_channels_first(given, batch[1])
        assert np.array_equal(batch[1], channels_first(given)) and not batch[[0, 2]].any()


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_every_beginning_of_an_image_is_refused(kind):
    draw = np.random.default_rng(0)
    content = cv2.imencode(kind, draw.integers(0, 256, (112, 112, 3), np.uint8))[1].tobytes()
    for length in (*range(20), *draw.integers(20, len(content) - 12, 100), *range(len(content) - 12, len(content))):
        for end in (b"", bytes(len(content) - length)):  # a full disk can leave zeros
            if content[length:] != end:
                with pytest.raises(UserError, match="cut: not an image"):
                    decode(content[:length] + end, "cut")


def test_normalising_maps_0_to_minus_1_and_255_to_1():
    assert normalise(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]
