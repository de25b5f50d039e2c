"""Which landmarks fit a face, and in which order the numbers of a list are."""

import cv2
import numpy as np
import pytest

from arcface.data.alignment import TEMPLATE
from arcface.data.detector import FaceDetector
from arcface.data.landmarks import _orders, complaint, fit, wrong_order
from arcface.data.photos import photo_paths

ORDERS = list(_orders())
# Millimetres, x to the right, y down, z towards the camera: the eyes, the tip of the nose, the corners of the mouth.
HEAD = np.array([[-32, -30, 0], [32, -30, 0], [0, 5, 38], [-25, 38, 8], [25, 38, 8]])


def seen(yaw: float, roll: float = 0) -> np.ndarray:
    """HEAD, turned to the side and tilted by so many degrees, in a photo: float [5, 2]."""
    yaw, roll = np.radians((yaw, roll))
    x, y = HEAD[:, 0] * np.cos(yaw) + HEAD[:, 2] * np.sin(yaw), HEAD[:, 1]
    return np.stack([x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)], axis=1) * 1.5 + (300, 160)


def faces(count: int) -> np.ndarray:
    """Faces as in photos: heads turned up to 35 degrees and tilted up to 20, float [count, 5, 2]."""
    rng = np.random.default_rng(count)
    return np.stack([seen(*rng.uniform((-35, -20), (35, 20))) + rng.normal(0, 2, (5, 2)) for _ in range(count)])


def rows_in(order, points: np.ndarray) -> np.ndarray:
    """The rows of a list that has the points in another order."""
    rows = np.empty((len(points), 10))
    rows[:, order.columns.ravel()] = points.reshape(-1, 10)
    return rows


def test_a_fit_does_not_depend_on_place_scale_and_rotation():
    turn = np.radians(30)
    moved = TEMPLATE @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] * 3 + (500, -20)
    found = fit(np.stack([TEMPLATE, moved, TEMPLATE * (-1, 1)]))
    assert found.misfit[:2] == pytest.approx(0, abs=1e-6) and found.turn[:2] == pytest.approx([0, -30])
    assert found.mirrored.tolist() == [False, False, True] and found.misfit[2] > 0.9


def test_points_that_coincide_are_left_to_the_alignment():
    assert np.isnan(fit(np.full((5, 2), 3.0)).misfit) and complaint(np.full((5, 2), 3.0)) is None
    assert wrong_order(np.full((7, 10), 3.0)) is None


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("order", ORDERS[1:], ids=lambda order: order.name)
def test_every_other_order_is_told_with_the_columns_that_put_it_right(order, count):
    points = faces(count)
    rows = rows_in(order, points)
    problem = wrong_order(rows)
    assert f"they fit as {order.name}: write numbers " in problem
    columns = [int(word) - 1 for word in problem.split("write numbers ")[1].split()[:10]]
    assert (rows[:, columns].reshape(-1, 5, 2) == points).all()


@pytest.mark.parametrize("count", [1, 7, 100])
def test_the_right_order_is_not_complained_of(count):
    assert wrong_order(faces(count).reshape(-1, 10)) is None
    assert not any(map(complaint, faces(count)))


@pytest.mark.parametrize("ahead", range(-200, 201, 20))
def test_x_before_y_is_told_wherever_in_the_photo_the_faces_are(ahead):
    points = faces(100) + (ahead - 140, 0)
    assert "they fit as x1 ... x5 y1 ... y5: " in wrong_order(points.transpose(0, 2, 1).reshape(-1, 10))


def test_a_list_of_which_most_is_right_passes_and_points_of_something_else_fit_in_no_order():
    some = np.concatenate([rows_in(ORDERS[0], faces(51)), np.zeros((20, 10)), rows_in(ORDERS[30], faces(49))])
    assert wrong_order(some) is None
    noise = np.random.default_rng(0).uniform(0, 300, (100, 10))
    assert "and no other order of the numbers fits" in wrong_order(noise)


def test_a_face_in_the_order_of_another_tool_is_complained_of():
    in_the_middle = faces(50) - (175, 35)  # of a photo, as LFW's are
    x_then_y = in_the_middle.transpose(0, 2, 1).reshape(-1, 5, 2)
    assert all(map(complaint, x_then_y)) and "not those of a face: 0." in complaint(x_then_y[0])
    exchanged, turned_over = faces(50)[:, [1, 0, 2, 4, 3]], faces(50)[:, :, ::-1]
    assert all("mirrored" in complaint(face) for face in (*exchanged, *turned_over))


@pytest.mark.parametrize("yaw", [-75, -60, -45, 45, 60, 75])
def test_a_head_in_profile_passes(yaw):
    assert complaint(seen(yaw, roll=10)) is None


PROFILES = "Phil_Gramm_0002", "Andy_Dick_0001", "Hugo_Chavez_0033", "Federico_Trillo_0001"  # the nose is beyond an eye


def test_real_faces_pass_also_in_profile_and_in_another_order_none(real_data):
    folder = real_data / "lfw_photos" / "photos"
    detector = FaceDetector(str(real_data / "yunet" / "face_detection_yunet.onnx"))
    paths = [f"{name[:-5]}/{name}.jpg" for name in PROFILES] + photo_paths(folder)[:46]
    points = np.stack([detector.landmarks(cv2.imread(str(folder / path)))[0] for path in paths])
    eyes, nose = points[:, 1] - points[:, 0], points[:, 2] - points[:, :2].mean(1)
    sideways = np.abs((eyes * nose).sum(1)) / (eyes**2).sum(1)
    assert (sideways[:4] > 0.5).all() and not any(map(complaint, points))
    for order in ORDERS[1:]:
        assert f"they fit as {order.name}: " in wrong_order(rows_in(order, points))
    assert all(map(complaint, points.transpose(0, 2, 1).reshape(-1, 5, 2)))
    assert all(map(complaint, points[:, [1, 0, 2, 4, 3]]))
