"""Landmarks go where ArcFace's template has them, whatever the pose of the face in the image."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.data.alignment import TEMPLATE, align, similarity_transform

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=200)
angles, scales, shifts = st.floats(-math.pi, math.pi), st.floats(0.05, 50), st.floats(-2000, 2000)
coordinates = st.floats(-500, 500, width=32)


def pose(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Equations 38 to 43 of the paper, by singular value decomposition."""
    mean_x, mean_y = source.mean(0), target.mean(0)
    variance_x = ((source - mean_x) ** 2).sum() / len(source)
    covariance = (target - mean_y).T @ (source - mean_x) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    s = np.diag([1, 1 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / variance_x
    return np.hstack([scale * rotation, (mean_y - scale * rotation @ mean_x)[:, None]])


def test_the_template_is_that_of_insightface():
    eyes_nose_mouth = [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    assert TEMPLATE == pytest.approx(np.array(eyes_nose_mouth) + [8, 0], abs=1e-9)


@thorough
@given(angles, scales, shifts, shifts)
def test_a_known_pose_is_recovered(angle, scale, x, y):
    matrix = pose(angle, scale, x, y)
    found = similarity_transform(TEMPLATE, moved(TEMPLATE, matrix))
    assert found == pytest.approx(matrix, abs=1e-6)
    back = similarity_transform(moved(TEMPLATE, matrix), TEMPLATE)
    assert moved(moved(TEMPLATE, matrix), back) == pytest.approx(TEMPLATE, abs=1e-6)


@thorough
@given(st.lists(st.tuples(coordinates, coordinates), min_size=5, max_size=5))
def test_any_landmarks_are_fitted_as_umeyama_does(landmarks):
    landmarks = np.array(landmarks)
    try:
        found = similarity_transform(landmarks, TEMPLATE)
    except ValueError:
        centred = landmarks - landmarks.mean(0)
        assert np.abs(centred).max() <= 1e-5 * np.abs(landmarks).max() or np.abs(umeyama(landmarks, TEMPLATE)[:, :2]).max() < 1e-5
        return
    expected = umeyama(landmarks, TEMPLATE)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.abs(expected).max())


@thorough
@given(st.lists(st.tuples(coordinates, coordinates), min_size=5, max_size=5), st.integers(0, 2**32 - 1))
def test_no_other_pose_comes_nearer(landmarks, seed):
    landmarks = TEMPLATE + np.array(landmarks) / 50  # a disturbed face
    found = similarity_transform(landmarks, TEMPLATE)
    best = ((moved(landmarks, found) - TEMPLATE) ** 2).sum()
    angle, scale = math.atan2(found[1, 0], found[0, 0]), math.hypot(found[1, 0], found[0, 0])
    for change in np.random.default_rng(seed).normal(0, 0.01, (10, 4)):
        other = pose(angle + change[0], scale + change[1], *(found[:, 2] + change[2:]))
        assert ((moved(landmarks, other) - TEMPLATE) ** 2).sum() >= best - 1e-9


def test_a_mirrored_face_is_rotated_but_never_reflected():
    mirrored = TEMPLATE * [-1, 1] + [112, 0]
    found = similarity_transform(mirrored, TEMPLATE)
    assert np.linalg.det(found[:, :2]) > 0
    assert found == pytest.approx(umeyama(mirrored, TEMPLATE), abs=1e-9)


@pytest.mark.parametrize(
    "landmarks",
    [
        np.full((5, 2), 30.0),
        np.full((5, 2), 900.0) + 1e-5 * TEMPLATE.astype(np.float32),
        np.zeros((5, 2)),
        np.full((5, 2), np.nan),
        np.full((5, 2), np.inf),
        TEMPLATE[:4],
        TEMPLATE.T,
        TEMPLATE.ravel(),
    ],
    ids=["coincide", "coincide but for rounding", "zero", "nan", "infinite", "four", "transposed", "flat"],
)
def test_landmarks_that_determine_no_transform_are_an_error(landmarks):
    with pytest.raises(ValueError, match="points"):
        align(np.zeros((20, 20, 3), np.uint8), landmarks)


def test_points_of_which_every_rotation_is_as_good_are_an_error():
    square = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)
    with pytest.raises(ValueError, match="determine no transform"):
        similarity_transform(square, square[[0, 3, 2, 1]])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_an_error(image):
    with pytest.raises(ValueError, match="an image is uint8"):
        align(image, TEMPLATE)


def test_a_face_that_is_in_place_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    assert (align(image, TEMPLATE.astype(np.float32)) == image).all()


@pytest.mark.parametrize("angle, scale", [(0, 1), (0.4, 1.7), (-2.5, 3), (math.pi / 2, 0.8)])
def test_the_crop_shows_each_landmark_where_the_template_has_it(angle, scale):
    matrix = pose(angle, scale, 0, 0)
    matrix[:, 2] = (300, 200) - moved(TEMPLATE.mean(0), matrix)  # the face in the middle of a wide image
    landmarks = moved(TEMPLATE, matrix)
    image = np.zeros((400, 600, 3), np.uint8)
    for number, (x, y) in enumerate(landmarks):
        colour = [0, 0, 0]
        colour[number % 3] = 200 - 20 * number
        cv2.circle(image, (round(x), round(y)), round(4 * scale), colour, cv2.FILLED)
    crop = align(image, landmarks)
    assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8
    for number, (x, y) in enumerate(TEMPLATE):
        expected = [0, 0, 0]
        expected[number % 3] = 200 - 20 * number
        assert crop[round(y), round(x)].tolist() == expected
    rest = crop.copy()
    for x, y in TEMPLATE:
        cv2.circle(rest, (round(x), round(y)), 7, (0, 0, 0), cv2.FILLED)
    assert not rest.any()


def test_outside_the_image_the_crop_is_black():
    crop = align(np.full((56, 112, 3), 255, np.uint8), TEMPLATE)
    assert (crop[:56] == 255).all() and (crop[57:] == 0).all()
