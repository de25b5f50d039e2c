"""The limits of arcface/data/landmarks.py are what its comment says of the 807 photos of LFW's first fold."""

import cv2
import numpy as np
import pytest

from arcface.data.detector import FaceDetector
from arcface.data.landmarks import MAX_MEDIAN, MAX_MISFIT, _orders, complaint, fit
from arcface.data.photos import photo_paths


def highest_or_lowest_median(misfit: np.ndarray, choose) -> float:
    """Of 100 photos in a row."""
    return choose(np.median(misfit[start : start + 100]) for start in range(len(misfit) - 99))


@pytest.mark.exhaustive
def test_the_limits_are_those_of_real_photos(real_data):
    folder = real_data / "lfw_photos" / "photos"
    detector = FaceDetector(str(real_data / "yunet" / "face_detection_yunet.onnx"))
    points = np.stack([detector.landmarks(cv2.imread(str(folder / path)))[0] for path in photo_paths(folder)])
    assert len(points) == 807 and not any(map(complaint, points))
    misfit = fit(points).misfit
    assert 3 * highest_or_lowest_median(misfit, max) == pytest.approx(MAX_MEDIAN, abs=0.005)
    assert (misfit.min(), misfit.max()) == pytest.approx((0.024, 0.386), abs=0.001)
    assert fit(points.transpose(0, 2, 1).reshape(-1, 5, 2)).misfit.min() > MAX_MISFIT
    _, *others = _orders()
    for order in others:
        rows = np.empty((len(points), 10))
        rows[:, order.columns.ravel()] = points.reshape(-1, 10)
        found = fit(rows.reshape(-1, 5, 2))
        assert highest_or_lowest_median(found.misfit, min) > 0.564 or np.median(np.abs(found.turn)) > 80
