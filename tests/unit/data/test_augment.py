"""Augmentations do what they say to uint8 images of any size, and draw from their generator alone."""

import cv2
import numpy as np
import pytest

from arcface.data import augment
from arcface.data.augment import Augmentation, change_light, crop, lower_resolution, occlude

CHANGES = [change_light, lower_resolution, crop, occlude]


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def image():
    """Blobs, nowhere black or white."""
    blobs = random(0).integers(60, 180, (7, 7, 3), np.uint8)
    return cv2.resize(blobs, (112, 112), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_a_function_of_image_and_generator_and_leaves_the_image_as_it_is(image, change):
    before = image.copy()
    changed = [change(image, random(seed)) for seed in range(20)]
    assert all(result.dtype == np.uint8 and result.shape == image.shape for result in changed)
    assert np.array_equal(image, before)
    assert all(np.array_equal(result, change(image, random(seed))) for seed, result in enumerate(changed))
    assert len({result.tobytes() for result in changed}) == 20


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", [(3, 40, 3), (200, 17, 3)])
def test_images_of_other_sizes_are_changed(change, shape):
    image = random(0).integers(0, 256, shape, np.uint8)
    for seed in range(50):
        assert change(image, random(seed)).shape == shape


class Fixed:
    """A generator whose uniform numbers are given."""

    def __init__(self, *values):
        self.uniform = lambda *_: np.array(values)


def jittered(image, brightness, contrast, saturation):
    """The three changes one after the other, in floating point without clipping."""
    weights = np.array([0.114, 0.587, 0.299])
    pixels = image.astype(np.float64) * brightness
    pixels = contrast * pixels + (1 - contrast) * (pixels @ weights).mean()
    return saturation * pixels + (1 - saturation) * (pixels @ weights)[..., None]


@pytest.mark.parametrize("factors", [(1, 1, 1), (0.5, 1, 1), (1, 0.5, 1), (1, 1, 0.5), (1.2, 1.3, 0.7), (1.5, 1.5, 1.5)])
def test_brightness_contrast_and_saturation_are_multiplied(image, factors):
    expected = np.clip(jittered(image, *factors), 0, 255)
    assert np.abs(change_light(image, Fixed(*factors)) - expected).max() <= 1  # OpenCV rounds the factors


def test_light_changes_by_half_at_most(image):
    means = [change_light(image, random(seed)).mean() / image.mean() for seed in range(200)]
    assert 0.48 < min(means) < 0.6 and 1.2 < max(means) < 1.52


def test_a_lower_resolution_loses_detail_but_keeps_the_picture():
    noise = random(0).integers(0, 256, (112, 112, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 20)
    kept = [np.abs(lower_resolution(smooth, random(seed)).astype(int) - smooth).mean() for seed in range(50)]
    assert max(kept) < 3
    details = [np.abs(lower_resolution(noise, random(seed)).astype(int) - noise).mean() for seed in range(50)]
    assert np.median(details) > 20


def bounds(mask):
    """Rows and columns of the smallest rectangle that holds all that is set, and whether it fills it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    return height, width, mask.sum() == height * width


def test_a_crop_keeps_a_rectangle_in_its_place_on_black(image):
    shares = []
    for seed in range(200):
        result = crop(image, random(seed))
        kept = result.any(axis=2)
        height, width, filled = bounds(kept)
        assert filled and np.array_equal(result[kept], image[kept]) and 0.7 < height / width < 1.43
        shares.append(height * width / 112**2)
    assert 0.19 < min(shares) < 0.25 and max(shares) > 0.9


def test_an_occlusion_covers_a_rectangle_with_one_colour(image):
    shares, tops = [], []
    for seed in range(200):
        result = occlude(image, random(seed))
        covered = (result != image).any(axis=2)
        height, width, _ = bounds(covered)
        assert len(np.unique(result[covered], axis=0)) == 1
        shares.append(height * width / 112**2)
        tops.append(np.flatnonzero(covered.any(1))[0])
    assert 0.015 < min(shares) < 0.04 and 0.25 < max(shares) < 0.31 and np.std(tops) > 15


@pytest.mark.parametrize("position, change", list(enumerate(CHANGES)))
def test_each_change_has_its_own_probability(monkeypatch, image, position, change):
    called = []
    for other in CHANGES:
        monkeypatch.setattr(augment, other.__name__, lambda given, _, name=other.__name__: called.append(name) or given)
    chances = [0.0] * 4
    assert not Augmentation(*chances)
    for chance in (1.0, 0.3):
        chances[position] = chance
        augmentation = Augmentation(*chances)
        assert augmentation
        for seed in range(400):
            augmentation(image, random(seed))
        assert set(called) == {change.__name__} and abs(len(called) - 400 * chance) < 50
        called.clear()


def test_what_is_cut_away_stays_black(image):
    for seed in range(30):
        result = Augmentation(photometric=1, low_resolution=1, crop=1)(image, random(seed))
        assert bounds(result.any(axis=2))[2]
