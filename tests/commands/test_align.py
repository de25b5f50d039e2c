"""datasets/align.py: photos to crops on the template, by landmarks from a list or a detector."""

import cv2
import numpy as np
import pytest

from arcface import align as command
from arcface.data import detector
from arcface.data.alignment import TEMPLATE
from arcface.errors import UserError

MARKS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)  # BGR, one a landmark


def photo(scale: float, angle: float, shift: tuple[float, float], size=(300, 400)) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with five coloured discs, and where they are: TEMPLATE scaled, rotated and shifted."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + shift
    image = np.full((*size, 3), 90, np.uint8)
    for (x, y), colour in zip(points, MARKS):
        cv2.circle(image, (round(x), round(y)), round(5 * scale), colour.tolist(), -1)
    return image, points


def on_template(crop: np.ndarray) -> bool:
    return all(np.abs(crop[round(y), round(x)].astype(int) - colour).max() < 60 for (x, y), colour in zip(TEMPLATE, MARKS))


@pytest.fixture
def photos(tmp_path):
    """A folder of three photos in two sub-folders, with their landmarks in a list; one photo is not in it."""
    folder = tmp_path / "photos"
    lines = []
    for number, (scale, angle, shift) in enumerate([(1.5, 0.3, (80, 20)), (0.8, -0.5, (100, 150)), (2.0, 0.0, (60, 40))]):
        image, points = photo(scale, angle, shift)
        path = folder / f"person {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        lines.append(f"{path.relative_to(folder)} {' '.join(map(str, points.reshape(-1)))}\n")
    (folder / "person 1" / "unlisted.png").write_bytes((folder / "person 1" / "1.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"no image")
    lines.append("broken.jpg 1 2 3 4 5 6 7 8 9 11\n")
    (tmp_path / "landmarks.txt").write_text("# path and ten numbers\n\n" + "".join(lines))
    return folder


def test_landmarks_of_a_list_come_to_lie_on_the_template(photos, tmp_path, capsys):
    options = ["--images", str(photos), "--landmarks", str(tmp_path / "landmarks.txt"), "--output", str(tmp_path / "crops")]
    command.main([*options, "--num_workers=2"])
    assert "3 crops made, 0 existed already, 2 photos without a crop, listed in" in capsys.readouterr().out
    crops = sorted((tmp_path / "crops").rglob("*.jpg"))
    assert [str(path.relative_to(tmp_path / "crops")) for path in crops] == ["person 0/0.jpg", "person 0/2.jpg", "person 1/1.jpg"]
    for path in crops:
        crop = cv2.imread(str(path))
        assert crop.shape == (112, 112, 3) and on_template(crop)
    listed = (tmp_path / "crops" / "not_aligned.txt").read_text().splitlines()
    assert listed[0].startswith("broken.jpg\tnot an image") and listed[1] == "person 1/unlisted.png\tno landmarks"
    crops[0].unlink()
    crops[1].write_bytes(b"mine")
    command.main(options)  # goes on, and leaves what is there
    assert "1 crops made, 2 existed already" in capsys.readouterr().out
    assert crops[0].exists() and crops[1].read_bytes() == b"mine"


class FakeDetector:
    """Finds the five discs as YuNet would, and beside them a smaller face in the corner."""

    def setInputSize(self, size):
        self.size = size

    def detect(self, image):
        assert image.shape[1::-1] == self.size
        points = []
        for colour in MARKS:
            rows, columns = np.nonzero((image == colour).all(2))
            if not len(rows):
                return 1, None
            points += [columns.mean(), rows.mean()]
        x, y = points[0::2], points[1::2]
        main = [min(x), min(y), max(x) - min(x), max(y) - min(y), *points, 0.9]
        return 1, np.array([[0, 0, 5, 5, *range(10), 0.95], main], np.float32)


def test_the_main_face_that_the_detector_finds_is_taken(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detector.FaceDetector, "_open", lambda self: FakeDetector())
    monkeypatch.setattr(detector, "LARGEST_SIDE", 200)  # the photos' side is 400: what the detector finds is scaled back
    (tmp_path / "yunet.onnx").touch()
    cv2.imwrite(str(photos / "empty.png"), np.full((50, 50, 3), 90, np.uint8))
    command.main(
        [
            "--images",
            str(photos),
            "--detector",
            str(tmp_path / "yunet.onnx"),
            "--output",
            str(tmp_path / "crops"),
            "--format=png",
            "--num_workers=1",
        ]
    )
    crops = list((tmp_path / "crops").rglob("*.png"))
    problems = (tmp_path / "crops" / "not_aligned.txt").read_text()
    assert "empty.png\tno face found" in problems
    assert crops and all(on_template(cv2.imread(str(path))) for path in crops)


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("", "contains no landmarks"),
        ("a.png 1 2 3\n", "line 1: not a path and ten numbers"),
        ("a.png 1 2 3 4 5 6 7 8 9 x\n", "line 1: not a path"),
        ("a.png 1 2 3 4 5 6 7 8 9 nan\n", "line 1: not a path"),
        ("a 1 2 3 4 5 6 7 8 9 9\na 1 2 3 4 5 6 7 8 9 9\n", "line 2: a has landmarks already"),
        ("a 1 2 3 4 5 6 7 8 9 9\n", "names none of the photos"),
    ],
)
def test_a_wrong_list_is_explained_and_nothing_written(photos, tmp_path, content, complaint):
    (tmp_path / "wrong.txt").write_text(content)
    with pytest.raises(UserError, match=complaint):
        command.main(["--images", str(photos), "--landmarks", str(tmp_path / "wrong.txt"), "--output", str(tmp_path / "crops")])
    assert not (tmp_path / "crops").exists()


@pytest.mark.parametrize(
    "changed, complaint",
    [
        ({"--images": "nowhere"}, "nowhere: no such folder"),
        ({"--landmarks": "nowhere.txt"}, "cannot be read"),
        ({"--landmarks": None, "--detector": "nowhere.onnx"}, "nowhere.onnx: OpenCV cannot open it"),
        ({"--num_workers": "0"}, "--num_workers"),
        ({"--format": "gif"}, "--format"),
        ({"--landmarks": None}, "required"),
    ],
)
def test_a_wrong_option_is_explained_and_nothing_written(photos, tmp_path, changed, complaint):
    options = {"--images": str(photos), "--landmarks": str(tmp_path / "landmarks.txt"), "--output": str(tmp_path / "crops")}
    options |= changed
    with pytest.raises(UserError, match=complaint):
        command.main([part for name, value in options.items() if value is not None for part in (name, value)])
    assert not (tmp_path / "crops").exists()


def test_crops_among_the_photos_are_refused(photos, tmp_path):
    with pytest.raises(UserError, match="lies in --images"):
        command.main(["--images", str(photos), "--landmarks", str(tmp_path / "landmarks.txt"), "--output", str(photos / "crops")])
