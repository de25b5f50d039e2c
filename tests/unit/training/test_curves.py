"""The picture of a run shows what its records say."""

import json

import cv2
import numpy as np
import pytest

from arcface.training import curves

ROC = {"far": [0.01, 0.1, 1.0], "tar": [0.72, 0.9, 1.0]}


def record(kind, step, **figures):
    return json.dumps({"run": "a", "step": step, "kind": kind, "time": 0.0, **figures}) + "\n"


def losses(count):
    return [record("training", 10 * (i + 1), loss=8 / (1 + i), samples_per_second=5.0) for i in range(count)]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Returns a function that writes metrics.jsonl, draws it, and returns the figure's axes."""

    def draw(lines):
        (tmp_path / "metrics.jsonl").write_text("".join(lines))
        figures = []
        monkeypatch.setattr(curves, "png", lambda figure: figures.append(figure) or b"")
        curves.draw_curves(tmp_path)
        return figures[0].axes

    return draw


def test_a_png_stands_beside_the_records(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(losses(3)[0] + record("verification/lfw", 30, accuracy=0.9, roc=ROC))
    picture = curves.draw_curves(tmp_path)
    assert picture == tmp_path / "curves.png" and picture.stat().st_size < 100_000
    height, width, _ = cv2.imread(str(picture)).shape
    assert width > 2 * height and {file.name for file in tmp_path.iterdir()} == {"curves.png", "metrics.jsonl"}


def test_loss_is_drawn_over_steps_beside_the_last_roc_of_each_set(drawn):
    early = record("verification/lfw", 10, accuracy=0.6, roc={"far": [0.5, 1.0], "tar": [0.5, 1.0]})
    last = [record(f"verification/{name}", 30, accuracy=0.912, roc=ROC) for name in ("lfw", "agedb_30")]
    loss, roc = drawn([*losses(3), early, *last])
    assert loss.lines[0].get_xydata().tolist() == [[10, 8], [20, 4], [30, 8 / 3]]
    assert [line.get_xydata().tolist() for line in roc.lines[:-1]] == 2 * [[list(point) for point in zip(*ROC.values())]]
    named = [f"{name}: accuracy 0.912 at step 30" for name in ("lfw", "agedb_30")]
    assert [text.get_text() for text in roc.get_legend().texts] == [*named, "chance"]


def test_many_losses_get_a_running_mean_that_a_constant_loss_does_not_change(drawn):
    (loss,) = drawn([record("training", step, loss=3.0) for step in range(1, 301)])
    every, smoothed = (line.get_xydata() for line in loss.lines[:2])
    assert len(every) == 300 and 250 < len(smoothed) < 300
    np.testing.assert_allclose(smoothed[:, 1], 3.0)
    assert smoothed[-1, 0] == every[-1, 0] == 300


@pytest.mark.parametrize("lines", [[], ['{"run": "a", "st'], [record("training", 10, samples_per_second=3.0)]])
def test_a_run_without_a_loss_is_drawn_empty(drawn, lines):
    (loss,) = drawn(lines)
    assert not loss.lines[0].get_xydata().size


def test_a_line_that_a_crash_cut_off_is_left_out(drawn):
    (loss,) = drawn([*losses(2), losses(1)[0][:30]])
    assert len(loss.lines[0].get_xydata()) == 2
