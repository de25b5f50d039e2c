"""datasets/align.py: landmarks that are not in the template's order, or not of a face, ruin no crop in silence."""

import cv2
import numpy as np
import pytest

from arcface import align as command
from arcface.data.alignment import TEMPLATE
from arcface.errors import UserError

NUMBER = 12  # photos
ORDERS = {
    "x1 ... x5 y1 ... y5": lambda points: points.T,
    "y1 x1 ... y5 x5": lambda points: points[:, ::-1],
    "y1 ... y5 x1 ... x5": lambda points: points[:, ::-1].T,
    "x1 y1 ... x5 y5 of right eye, left eye, nose, right corner": lambda points: points[[1, 0, 2, 4, 3]],
    "y1 x1 ... y5 x5 of right eye, left eye, nose, right corner": lambda points: points[[1, 0, 2, 4, 3], ::-1],
    "x1 y1 ... x5 y5 of left eye, right eye, left corner of the mouth, right corner of the mouth, nose (as": lambda points: points[
        [0, 1, 3, 4, 2]
    ],
}


@pytest.fixture
def landmarks(tmp_path):
    """Photos 0.jpg, ... of a grey 112x112 face on white, somewhere, and the landmarks of each, float [n, 5, 2]."""
    (tmp_path / "photos").mkdir()
    shifts = np.random.default_rng(0).integers(20, 120, (NUMBER, 2))
    for number, (x, y) in enumerate(shifts):
        photo = np.full((260, 260, 3), 255, np.uint8)
        photo[y : y + 112, x : x + 112] = 128
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.jpg"), photo)
    return TEMPLATE + shifts[:, None] + np.random.default_rng(1).normal(0, 1, (NUMBER, 5, 2))


def align(folder, rows, *more: str):
    """Align photos by the rows of a list; returns the crops' names and what not_aligned.txt says."""
    lines = (f"{number}.jpg {' '.join(map(str, np.ravel(row)))}\n" for number, row in enumerate(rows))
    (folder / "landmarks.txt").write_text("".join(lines))
    command.main(
        [
            "--images",
            str(folder / "photos"),
            "--landmarks",
            str(folder / "landmarks.txt"),
            "--output",
            str(folder / "crops"),
            "--num_workers=1",
            *more,
        ]
    )
    return sorted(path.name for path in (folder / "crops").glob("*.jpg")), (folder / "crops" / "not_aligned.txt").read_text()


@pytest.mark.parametrize("name", ORDERS)
def test_a_list_in_another_order_is_refused_and_its_order_named(landmarks, tmp_path, name):
    rows = [ORDERS[name](points) for points in landmarks]
    with pytest.raises(UserError) as refused:
        align(tmp_path, rows)
    assert f"they fit as {name}" in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'landmarks.txt'}: ") and "--unchecked" in str(refused.value)
    assert not (tmp_path / "crops").exists()
    columns = str(refused.value).split("write numbers ")[1].split()[:10]
    crops, problems = align(tmp_path, [np.ravel(row)[[int(column) - 1 for column in columns]] for row in rows])
    assert len(crops) == NUMBER and problems == ""
    assert np.abs(cv2.imread(str(tmp_path / "crops" / crops[0]))[20:90, 20:90].astype(int) - 128).max() < 5


def test_landmarks_are_taken_as_they_are_when_told(landmarks, tmp_path):
    crops, problems = align(tmp_path, landmarks[:, [1, 0, 2, 4, 3]], "--unchecked")
    assert len(crops) == NUMBER and problems == ""


def test_single_faces_that_do_not_fit_are_listed_and_get_no_crop(landmarks, tmp_path, capsys):
    landmarks[3] = landmarks[3][[1, 0, 2, 4, 3]]
    landmarks[5] = landmarks[5][[0, 1, 2, 4, 3]]  # the mouth only
    landmarks[7] = [[20, 20], [200, 30], [40, 190], [90, 20], [100, 250]]
    landmarks[9] = 0
    crops, problems = align(tmp_path, landmarks)
    assert crops == sorted(f"{number}.jpg" for number in (0, 1, 2, 4, 6, 8, 10, 11))
    reasons = dict(line.split("\t") for line in problems.splitlines())
    assert "mirrored" in reasons["3.jpg"] and "not those of a face" in reasons["5.jpg"] and "coincide" in reasons["9.jpg"]
    assert len(reasons) == 4 and "8 crops made, 0 existed already, 4 photos without a crop" in capsys.readouterr().out
