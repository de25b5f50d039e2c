"""datasets/check.py: what is wrong is found, named and listed; the copy it writes is sound; a killed check goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_lists import seen, write_list

from arcface import check as command
from arcface.command import CLOSED_PIPE
from arcface.data import checks as check
from arcface.data.datasets.base import open_dataset
from arcface.data.recordio import encode
from arcface.errors import UserError
from arcface.options.command_line import parse

HELPERS = Path(__file__).parents[1] / "helpers"

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "check.py"
LABELS = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]


def jpeg(number: int, size: int = 112) -> bytes:
    return cv2.imencode(".jpg", np.full((size, size, 3), 20 * number + 20, np.uint8))[1].tobytes()


def write_rec(file: Path, labels, contents) -> list[int]:
    """Write images as MXNet's packer does, and return where each record begins."""
    records = [encode(label, key, content) for key, (label, content) in enumerate(zip(labels, contents, strict=True))]
    file.write_bytes(b"".join(records))
    return np.cumsum([0, *map(len, records)]).tolist()


def run(source: Path, *more: str) -> int:
    """Check in this process; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(["--source", str(source), *map(str, more)])
    return ended.value.code


def script(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Run as a user does, from a folder that is not the repository."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=folder)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_sound_data_set_passes(tmp_path, capsys):
    source = write_list(tmp_path / "source", LABELS, map(jpeg, range(10)))
    assert run(source, "--report", tmp_path / "report", "--repair", tmp_path / "copy") == 0
    output = flat(capsys.readouterr().out)
    assert "10 images of 4 identities" in output and "10 sound, 0 bad" in output and "0 equal to an earlier image" in output
    assert "1 to 4 images, median 2.5; identities by number of images: 1: 1, 2-3: 2, 4-7: 1" in output
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "bad.txt",
        "black.txt",
        "copies.txt",
        "images_a_person.png",
    ]
    assert (tmp_path / "report" / "bad.txt").read_text() == (tmp_path / "report" / "copies.txt").read_text() == ""
    assert not (tmp_path / "copy").exists()  # there is nothing to repair


def test_the_histogram_shows_how_many_identities_have_how_many_images(tmp_path):
    heights = []
    for counts in [50] * 90 + [20] * 10, [20] * 90 + [50] * 10:
        image = cv2.imdecode(np.frombuffer(check.histogram(np.array(counts)), np.uint8), cv2.IMREAD_COLOR)
        bars = (np.abs(image.astype(int) - (0xB4, 0x77, 0x1F)).max(2) < 40).sum(0)  # matplotlib's first colour
        columns = np.flatnonzero(bars)
        heights.append((bars[columns[0]], bars[columns[-1]]))
        assert image.shape[1] > 600 and columns[-1] - columns[0] > 200
    assert heights[0][0] < heights[0][1] and heights[1][0] > heights[1][1]
    check.histogram(np.array([100_000, 1]))


def bad_images() -> list[bytes]:
    """As LABELS: number 1 is cut off, 3 no image, 4 too small, 8 lacks its last bytes; identity 1 has no sound image."""
    contents = list(map(jpeg, range(10)))
    contents[1] = contents[1][:300]
    contents[3] = b"no image"
    contents[4] = jpeg(4, size=50)
    contents[8] = contents[8][:-20]
    return contents


def test_all_bad_images_are_listed_and_the_first_is_named(tmp_path, capsys):
    offsets = write_rec(tmp_path / "train.rec", LABELS, bad_images())
    assert run(tmp_path / "train.rec", "--report", tmp_path / "report") == 1
    output = flat(capsys.readouterr().out)
    assert f"6 sound, 4 bad -> the first: {tmp_path}/train.rec byte {offsets[1]}: not an image" in output
    assert output.endswith("findings 1, marked by arrows above")
    listed = (tmp_path / "report" / "bad.txt").read_text().splitlines()
    complaints = {1: "not an image", 3: "not an image", 4: "50x50 pixels", 8: "truncated image"}
    for line, (row, complaint) in zip(listed, complaints.items(), strict=True):
        assert line.startswith(f"{row}\t{tmp_path}/train.rec byte {offsets[row]}: ") and complaint in line
    assert run(tmp_path / "train.rec") == 1
    assert "".join(f"    {line}\n" for line in listed) in capsys.readouterr().out  # where there is no report


def test_missing_files_and_damaged_records_are_bad_images(tmp_path, capsys):
    source = write_list(tmp_path / "source", LABELS, map(jpeg, range(10)))
    (source / "images" / "6.jpg").unlink()
    (source / "images" / "7.jpg").write_bytes(b"")
    assert run(source) == 1
    output = capsys.readouterr().out
    assert f"{source}/label.txt line 7: images/6.jpg: No such file" in output
    assert f"{source}/label.txt line 8: images/7.jpg: the image is empty" in output
    offsets = write_rec(tmp_path / "train.rec", LABELS, map(jpeg, range(10)))
    (tmp_path / "train.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets[:-1])))
    open_dataset(tmp_path / "train.rec")  # knows the file now
    stamp = (tmp_path / "train.rec").stat()
    with open(tmp_path / "train.rec", "r+b") as file:
        file.seek(offsets[2])
        file.write(b"\0\0\0\0")
    os.utime(tmp_path / "train.rec", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(tmp_path / "train.rec") == 1
    assert f"{tmp_path}/train.rec byte {offsets[2]}: no record begins here" in capsys.readouterr().out


def test_a_copy_without_bad_images_is_sound(tmp_path, capsys):
    contents = bad_images()
    source = write_list(tmp_path / "source", LABELS, contents)
    (source / "names.txt").write_text("0\tAnn\n1\tBo\n2\tCy\n3\tDi\n")
    (tmp_path / "made").mkdir()
    assert run(source, "--repair", tmp_path / "made" / "train.rec") == 1
    assert f"{tmp_path}/made/train.rec: 6 images of 3 identities" in flat(capsys.readouterr().out)
    assert seen(tmp_path / "made" / "train.rec") == ([0, 0, 1, 2, 2, 2], [contents[row] for row in (0, 2, 5, 6, 7, 9)])
    assert (tmp_path / "made" / "names.txt").read_text() == "0\tAnn\n1\tCy\n2\tDi\n"
    assert run(tmp_path / "made" / "train.rec") == 0


def test_copies_are_told_apart_by_identity_and_left_out(tmp_path, capsys):
    contents = list(map(jpeg, range(10)))
    contents[2] = contents[0]  # of one person
    contents[9] = contents[7] = contents[5]  # of two
    source = write_list(tmp_path / "source", LABELS, contents)
    assert run(source, "--report", tmp_path / "report", "--repair", tmp_path / "copy") == 1  # copies are not bad
    output = flat(capsys.readouterr().out)
    assert "3 equal to an earlier image, 2 of them to one of another identity" in output
    assert f"{source}/label.txt line 3: images/2.jpg is {source}/label.txt line 1: images/0.jpg" in output
    assert (tmp_path / "report" / "copies.txt").read_text() == "2\t0\t0\t0\n7\t3\t5\t2\n9\t3\t5\t2\n"
    assert not (tmp_path / "copy").exists()
    assert run(source, "--repair", tmp_path / "copy", "--without_copies") == 1
    assert seen(tmp_path / "copy") == ([0, 0, 1, 2, 3, 3], [contents[row] for row in (0, 1, 3, 4, 6, 8)])
    capsys.readouterr()
    assert run(tmp_path / "copy") == 0


def test_labels_with_a_gap_are_a_finding(tmp_path, capsys):
    source = write_list(tmp_path / "source", [0, 2, 2], map(jpeg, range(3)))
    assert run(source) == 1
    output = flat(capsys.readouterr().out)
    assert f"-> {source}/label.txt line 2: labels must count up from 0 without a gap" in output and "findings 1" in output


def test_a_killed_check_goes_on_where_it_was(start_process, tmp_path, monkeypatch, capsys):
    source = write_list(tmp_path / "source", [number // 4 for number in range(400)], map(jpeg, [*range(9)] * 44 + [9] * 4))
    (source / "images" / "5.jpg").write_bytes(b"no image")
    kept = tmp_path / "report" / "contents.partial"
    command = ["--source", str(source), "--report", str(tmp_path / "report")]
    running = start_process(
        [sys.executable, HELPERS / "held.py", "390.jpg", "check", *command, "--num_workers=2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(1200):
        if kept.exists() and np.count_nonzero(np.fromfile(kept, np.uint64)) == 2 + 384 - 1:  # all before the last 64
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    assert not (tmp_path / "report" / "bad.txt").exists()
    checked, check_image = [], check.check_image
    monkeypatch.setattr(check, "check_image", lambda selection, index: checked.append(index) or check_image(selection, index))
    assert run(source, *command[2:], "--num_workers=1") == 1
    assert checked == [5, *range(384, 400)]  # what was bad is looked at again
    monkeypatch.undo()
    resumed = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert run(source, "--report", tmp_path / "whole") == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()} == resumed
    assert resumed["bad.txt"].count(b"\n") == 1


def test_a_report_is_not_overwritten_nor_gone_on_with_for_other_labels(tmp_path, monkeypatch):
    source = write_list(tmp_path / "source", LABELS, map(jpeg, range(10)))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "bad.txt").write_text("three years")
    with pytest.raises(UserError, match="contains a report already"):
        command.main(["--source", str(source), "--report", str(tmp_path / "report")])
    assert os.listdir(tmp_path / "report") == ["bad.txt"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(check, "find_copies", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        command.main(["--source", str(source), "--report", str(tmp_path / "new")])
    for change in ("1.jpg\t0", "1.jpg\t1"), ("images/9.jpg\t3\n", ""):
        (source / "label.txt").write_text((source / "label.txt").read_text().replace(*change))
        before = (tmp_path / "new" / "contents.partial").read_bytes()
        with pytest.raises(UserError, match="contents.partial: was begun for other images or labels"):
            command.main(["--source", str(source), "--report", str(tmp_path / "new")])
        assert (tmp_path / "new" / "contents.partial").read_bytes() == before


def test_an_existing_output_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    source = write_list(tmp_path / "source", LABELS, bad_images())
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(check, "check_images", lambda *_: pytest.fail("checked too early"))
    with pytest.raises(UserError, match="copy: exists already"):
        command.main(["--source", str(source), "--repair", str(tmp_path / "copy")])


def test_an_error_is_one_line_and_exit_code_2_and_a_finding_exit_code_1(tmp_path):
    write_list(tmp_path / "source", LABELS, bad_images())
    for arguments, words in [
        (["--source=nowhere"], "nowhere: no such file or directory"),
        (["--source=source", "--num_workers=0"], "--num_workers"),
        (["--source=source", "--without_copies"], "pass --repair OUTPUT"),
        (["--source=source", "--report=absent/report"], "absent/report: cannot be written"),
        (["--source=source", "--repair=absent/copy"], "directory does not exist"),
        (["--report=r"], "source"),
    ]:
        done = script(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
    assert os.listdir(tmp_path) == ["source"]
    assert script("--source=source", folder=tmp_path).returncode == 1


def test_help_shows_commands_that_work(tmp_path):
    done = script("--help", folder=tmp_path)
    commands = [line for line in done.stdout.splitlines() if "python datasets/check.py" in line]
    assert [parse(check.CheckOptions, line.split()[2:]).without_copies for line in commands] == [False, True]


def test_output_that_nobody_reads_is_no_mistake_of_the_report(tmp_path):
    write_list(tmp_path / "source", LABELS, bad_images())
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, SCRIPT, "--source=source"], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(write)
    assert done.returncode == CLOSED_PIPE and done.stderr == b""
