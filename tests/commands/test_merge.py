"""datasets/merge.py: datasets one after the other, identities joined by name or list, those of verification sets left out."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_lists import write_records

from arcface.data.bin_file import write_bin
from arcface.data.datasets.base import open_dataset
from arcface.data.merge import MergeOptions
from arcface.errors import UserError
from arcface.merge import main
from arcface.options.command_line import parse

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "merge.py"


def png(number: int) -> bytes:
    return cv2.imencode(".png", np.full((112, 112, 3), number, np.uint8))[1].tobytes()


@pytest.fixture
def sources(tmp_path) -> list[str]:
    """A .rec of identities 0, 0, 1, 2 (images 0 to 3) and folders Ann, Bo, Di (4 to 8)."""
    (tmp_path / "first").mkdir()
    write_records(tmp_path / "first" / "train.rec", zip([0, 0, 1, 2], map(png, range(4))))
    for person, images in {"Ann": (4, 5), "Bo": (6,), "Di": (7, 8)}.items():
        (tmp_path / "second" / person).mkdir(parents=True)
        for image in images:
            (tmp_path / "second" / person / f"{image}.png").write_bytes(png(image))
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def merge(sources: list[str], output: Path, *more) -> tuple[list[int], list[int]]:
    """Labels of the merged dataset, and which images they are of."""
    main(["--sources", *sources, "--output", str(output), *map(str, more)])
    source, numbers = open_dataset(output), {png(number): number for number in range(9)}
    return source.labels.tolist(), [numbers[source.encoded(index)] for index in range(len(source))]


@pytest.mark.parametrize("output, layout", [("train.rec", "rec"), ("list", "label"), ("folders", "folder")])
def test_identities_of_the_second_source_follow_those_of_the_first(sources, tmp_path, capsys, output, layout):
    merged = merge(sources, tmp_path / output, "--layout", layout)
    assert merged == ([0, 0, 1, 2, 3, 3, 4, 5, 5], [*range(9)])
    assert capsys.readouterr().out == f"{tmp_path / output}: 9 images of 6 identities; 0 joined, 0 left out\n"
    names = (tmp_path / output if layout != "rec" else tmp_path) / "names.txt"
    assert names.read_text() == "3\tAnn\n4\tBo\n5\tDi\n"


def test_identities_of_equal_names_are_joined_when_asked(sources, tmp_path, capsys):
    (tmp_path / "first" / "names.txt").write_text("0\tCy\n1\tBo\n")  # identity 2 has no name
    assert merge(sources, tmp_path / "a")[0] == [0, 0, 1, 2, 3, 3, 4, 5, 5]
    assert merge(sources, tmp_path / "b", "--same_names") == ([0, 0, 1, 1, 2, 3, 3, 4, 4], [0, 1, 2, 6, 3, 4, 5, 7, 8])
    assert (tmp_path / "b" / "names.txt").read_text() == "0\tCy\n1\tBo\n3\tAnn\n4\tDi\n"
    assert "5 identities; 1 joined" in capsys.readouterr().out


def test_identities_are_joined_by_a_list(sources, tmp_path, capsys):
    (tmp_path / "mapping.txt").write_text("# source label new\n\n2\t0\t2\n2 2 0\n")
    merged = merge(sources, tmp_path / "train.rec", "--mapping", tmp_path / "mapping.txt")
    assert merged == ([0, 0, 0, 0, 1, 2, 2, 2, 3], [0, 1, 7, 8, 2, 3, 4, 5, 6])
    assert "4 identities; 2 joined" in capsys.readouterr().out


def test_identities_with_an_image_of_a_verification_set_are_left_out(sources, tmp_path, capsys):
    write_bin(tmp_path / "lfw.bin", [png(1), png(40), png(41), png(42)], [1, 0])
    write_bin(tmp_path / "cfp.bin", [png(8), png(40), png(41), png(42)], [1, 0])
    merged = merge(sources, tmp_path / "train.rec", "--without", tmp_path / "lfw.bin", tmp_path / "cfp.bin")
    assert merged == ([0, 1, 2, 2, 3], [2, 3, 4, 5, 6])
    assert "5 images of 4 identities; 0 joined, 2 left out" in capsys.readouterr().out


def test_images_come_by_identity_in_the_order_of_the_sources(sources, tmp_path):
    (tmp_path / "first" / "label.txt").write_text("b.png\t1\na.png\t0\nc.png\t1\n")
    for name, number in ("a", 0), ("b", 1), ("c", 2):
        (tmp_path / "first" / f"{name}.png").write_bytes(png(number))
    assert merge(sources, tmp_path / "list") == ([0, 1, 1, 2, 2, 3, 4, 4], [0, 1, 2, 4, 5, 6, 7, 8])


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("2 0", "line 2: not three whole numbers"),
        ("2 0 x", "line 2: not three"),
        ("1 0 1", "no identity 0 in a source 1 after"),
        ("3 0 0", "no identity 0 in a source 3"),
        ("2 3 0", "no identity 3 in a source 2"),
        ("2 1 2", "line 2: identity 1 of source 2 has a new"),
        ("2 0 3", "new label 3, but earlier sources have 3 identities"),
    ],
)
def test_a_wrong_list_is_explained_and_nothing_written(sources, tmp_path, line, complaint):
    (tmp_path / "mapping.txt").write_text(f"2 1 0\n{line}\n")
    with pytest.raises(UserError, match=complaint):
        merge(sources, tmp_path / "list", "--mapping", tmp_path / "mapping.txt")
    assert sorted(os.listdir(tmp_path)) == ["first", "mapping.txt", "second"]


def test_an_error_is_one_line_and_exit_code_2(sources, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").write_text("three years")
    write_bin(tmp_path / "all.bin", [png(0), png(2), png(3), png(4), png(6), png(40)], [1, 0, 1])
    for arguments, words in [
        (["--sources", "first", "--output=a"], "pass 2 to 255 datasets"),
        (["--sources", "first", "nowhere", "--output=a"], "nowhere"),
        (["--sources", "first", "second", "--output=old"], "old: exists already"),
        (["--sources", "first", "second", "--output=second/a"], "lies in"),
        (["--sources", "first", "second", "--output=a", "--same_names"], "needs names of its identities"),
        (["--sources", "first", "second", "--output=a", "--without", "no.bin"], "no.bin: cannot be read"),
        (["--sources", "first", "second", "--output=a", "--without", "all.bin"], "at least two are needed"),
        (["--sources", "first", "second", "--output=a", "--mapping", "no.txt"], "no.txt: cannot be read"),
        (["--sources", "first", "second", "--output=a", "--num_workers=0"], "--num_workers"),
    ]:
        assert words in refused(lambda: main(arguments))
    done = subprocess.run(
        [sys.executable, SCRIPT, "--sources", "first", "nowhere", "--output=a"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and done.stderr.startswith("error: ")
    assert sorted(os.listdir(tmp_path)) == ["all.bin", "first", "old", "second"]


def test_help_shows_commands_that_work(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
    commands = [line for line in done.stdout.splitlines() if "python datasets/merge.py" in line]
    assert [len(parse(MergeOptions, line.split()[2:]).sources) for line in commands] == [2, 2]
