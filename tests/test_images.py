"""Images become RGB arrays between -1 and 1."""

import cv2
import numpy as np

from arcface.images import decode, normalise


def test_decoding_gives_rgb_channels_first():
    red = np.zeros((112, 112, 3), np.uint8)
    red[:50, :, 2] = 255  # OpenCV writes BGR
    image = decode(cv2.imencode(".png", red)[1].tobytes(), "red")
    assert image.shape == (3, 112, 112) and image.dtype == np.uint8
    assert (image[0, :50] == 255).all() and (image[0, 50:] == 0).all() and (image[1:] == 0).all()


def test_a_grey_image_is_read_as_rgb():
    grey = np.full((112, 112), 77, np.uint8)
    assert (decode(cv2.imencode(".png", grey)[1].tobytes(), "grey") == 77).all()


def test_normalising_maps_0_to_minus_1_and_255_to_1():
    assert normalise(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]
