"""check.py and the doctor notice crops of which over half of the pixels are exactly 0, as after an alignment by wrong landmarks."""

import contextlib

import cv2
import numpy as np
import pytest

from arcface import check as command
from arcface.config import TrainConfig, parse
from arcface.data import checks as check
from arcface.data.bin_file import write_bin
from arcface.data.datasets.base import open_dataset
from arcface.data.selection import whole
from arcface.doctor.data import examine_training_data, examine_verification_sets
from arcface.errors import UserError
from arcface.io.images import mostly_black
from arcface.io.report import Report

BLACK = (2, 5)  # of the eight images of two identities


def crop(number: int, black_rows: int) -> np.ndarray:
    """A crop whose upper rows are black; below them, red and blue alone count as a colour."""
    image = np.full((112, 112, 3), (0, 0, 100 + number), np.uint8)
    image[:black_rows] = 0
    return image


@pytest.fixture
def contents() -> list[bytes]:
    """Images that are half black, but two that are black in one row more."""
    return [cv2.imencode(".png", crop(number, 57 if number in BLACK else 56))[1].tobytes() for number in range(8)]


@pytest.fixture
def data_set(tmp_path, contents):
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number, content in enumerate(contents):
        (tmp_path / "data" / "images" / f"{number}.png").write_bytes(content)
    (tmp_path / "data" / "label.txt").write_text("".join(f"images/{number}.png\t{number // 4}\n" for number in range(8)))
    return tmp_path / "data"


def flat(text: str) -> str:
    return " ".join(text.split())


def run(*options) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(list(map(str, options)))
    return ended.value.code


def test_over_half_of_the_pixels_counts():
    assert not mostly_black(crop(0, 0)) and not mostly_black(crop(0, 56)) and mostly_black(crop(0, 57))
    nearly = np.zeros((112, 112, 3), np.uint8)
    nearly[:, :, 1] = 1
    assert not mostly_black(nearly)


def test_check_lists_them_and_leaves_them_out_when_told(data_set, tmp_path, capsys, contents):
    assert run("--source", data_set, "--report", tmp_path / "report", "--repair", tmp_path / "copy", "--without_black") == 1
    output = flat(capsys.readouterr().out)
    assert f"black 2 of which over half of the pixels are 0 -> the first: {data_set}/label.txt line 3: images/2.png; was" in output
    assert "8 sound, 0 bad" in output and "6 images of 2 identities" in output
    lines = (tmp_path / "report" / "black.txt").read_text().splitlines()
    assert lines == [f"{row}\t{data_set}/label.txt line {row + 1}: images/{row}.png" for row in BLACK]
    copy = open_dataset(tmp_path / "copy")
    assert [copy.encoded(row) for row in range(6)] == [content for row, content in enumerate(contents) if row not in BLACK]
    assert run("--source", tmp_path / "copy") == 0 and "black 0 of which" in flat(capsys.readouterr().out)


def test_check_leaves_them_in_unless_told_and_asks_where_the_copy_goes(data_set, tmp_path, capsys):
    assert run("--source", data_set, "--repair", tmp_path / "copy") == 1
    assert not (tmp_path / "copy").exists() and "leave them out with --repair OUTPUT --without_black" in flat(
        capsys.readouterr().out
    )
    with pytest.raises(UserError, match="--without_black .*pass --repair OUTPUT"):
        command.main(["--source", str(data_set), "--without_black"])


def begin(data_set, report, images: int) -> None:
    """Check some images and leave off, as an interrupted check does."""
    report.mkdir()
    selection = whole(open_dataset(data_set))
    with contextlib.suppress(KeyboardInterrupt), check.kept_hashes(selection, report) as hashes:
        for index in range(images):
            hashes[index], _ = check.check_image(selection, index)
        raise KeyboardInterrupt


def test_an_interrupted_check_still_knows_them(data_set, tmp_path, monkeypatch, capsys):
    begin(data_set, tmp_path / "report", images=5)
    looked_at = []
    monkeypatch.setattr(
        check,
        "check_image",
        lambda selection, index, original=check.check_image: looked_at.append(index) or original(selection, index),
    )
    assert run("--source", data_set, "--report", tmp_path / "report") == 1
    assert sorted(looked_at) == [5, 6, 7] and "black 2 of which" in flat(capsys.readouterr().out)


def test_the_doctor_names_the_first_of_a_training_list_and_of_a_verification_set(data_set, contents, capsys):
    write_bin(data_set / "some.bin", contents, [True, False] * 2)
    report = Report()
    examine_training_data(report, parse(TrainConfig, [f"--data_dir={data_set}", "--batch_size=8"]))
    output = flat(capsys.readouterr().out)
    assert f"-> 2 of which over half of the pixels are 0, the first: {data_set}/label.txt line 3: images/2.png; were they" in output
    assert report.findings == 1
    examine_verification_sets(report, [data_set / "some.bin"], set())
    assert "-> 2 of which over half of the pixels are 0, the first: image 2; were" in flat(capsys.readouterr().out)
    assert report.findings == 2
