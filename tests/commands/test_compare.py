"""python -m arcface.compare: two images to a similarity, that of verification, and a decision at one of its thresholds."""

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_pairs import write_drawn_pairs

import arcface
from arcface import compare as command
from arcface import valid
from arcface.command import run
from arcface.verification.roc import tar_at_far

OPTIONS = ["--network=Tiny", "--embedding_size=8", "--device=cpu", "--engine=paddle"]


@pytest.fixture
def faces(tiny, tmp_path) -> Path:
    """Weights of Tiny in weights/, and drawn.bin with 20 pairs of ten drawn identities, also as 0_0.jpg, 0_1.jpg, 1_0.jpg, ..."""
    import paddle
    from tiny_backbone import Tiny

    paddle.seed(0)
    (tmp_path / "weights").mkdir()
    paddle.save(Tiny(8).state_dict(), str(tmp_path / "weights" / "Tiny.pdparams"))
    write_drawn_pairs(tmp_path)
    return tmp_path


@pytest.fixture
def compare(faces, monkeypatch, capsys):
    """Returns a function that compares two images, and returns the exit code and the lines."""

    def call(*arguments) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments), f"--checkpoint={faces / 'weights'}", *OPTIONS])
        code = 0
        try:
            run(command.main)
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    return call


def test_a_threshold_decides_and_the_exit_code_says_how(compare, faces):
    first, second = faces / "0_0.jpg", faces / "1_0.jpg"
    code, lines = compare(first, second, "--threshold=-1")
    similarity = float(re.fullmatch(r"similarity (-?\d\.\d{4})", lines[0])[1])
    assert code == 0 and lines[1:] == ["same: at or above the threshold -1.0000 (--threshold)"] and similarity < 0.999
    code, lines = compare(first, second, "--threshold=1")
    assert code == 1 and lines[1:] == ["different: below the threshold 1.0000 (--threshold)"]
    code, lines = compare(first, faces / "gone.jpg", "--threshold=1")
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


def test_a_report_of_valid_gives_the_threshold(compare, faces, monkeypatch, capsys):
    options = ["--checkpoint", faces / "weights", "--data_dir", faces, "--val_targets=drawn", "--report", faces / "report"]
    monkeypatch.setattr(sys, "argv", ["valid", *map(str, options), *OPTIONS])
    valid.main()
    capsys.readouterr()
    with arcface.open_embedder(faces / "weights", "Tiny", 8, "paddle", "cpu") as embed:
        result = arcface.verify(embed, arcface.read_bin(faces / "drawn.bin"))
    point = tar_at_far(result.curve, [0.1])[0]
    for pair, images in ((0, ("0_0.jpg", "0_1.jpg")), (3, ("1_0.jpg", "2_1.jpg"))):
        for report in (faces / "report", faces / "report" / "report.json"):
            code, lines = compare(*(faces / image for image in images), "--report", report, "--far=0.1")
            assert float(lines[0].split()[1]) == pytest.approx(result.similarities[pair], abs=1e-4)
            same = result.similarities[pair] >= point.threshold
            assert code == (not same) and lines[1].endswith(f"the threshold {point.threshold:.4f} (FAR 0.1 on drawn)")
    figures = json.loads((faces / "report" / "report.json").read_text())
    assert figures["settings"]["network"] == "Tiny" and figures["sets"][0]["accuracy"] == result.accuracy.mean


def test_of_several_faces_the_two_that_are_most_alike_decide(compare, faces, tmp_path, real_data):
    one, other = (
        cv2.imread(str(real_data / "lfw_photos" / "photos" / name / f"{name}_0001.jpg"))
        for name in ("Abel_Pacheco", "Abdul_Rahman")
    )
    for name, image in (("one", one), ("other", other), ("both", np.concatenate([other, one], axis=1))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    detector = ["--threshold=0", "--detector", real_data / "yunet" / "face_detection_yunet.onnx"]
    similarity = {}
    for faces_of in ("largest", "all"):
        for name in ("one", "other"):
            _, lines = compare(tmp_path / "both.png", tmp_path / f"{name}.png", *detector, f"--faces={faces_of}")
            similarity[faces_of, name] = float(lines[0].split()[1])
    assert similarity["all", "one"] > 0.99 < similarity["all", "other"]
    assert min(similarity["largest", "one"], similarity["largest", "other"]) < 0.99
