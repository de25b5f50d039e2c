"""datasets/convert.py: every layout into every other, bytes, order and labels unchanged, through kills and refusals."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_lists import seen, write_list

from arcface.convert import main
from arcface.data import ordered_map, record_writer
from arcface.data.convert import ConvertOptions
from arcface.data.recordio import encode
from arcface.data.unfinished import locked_partial
from arcface.errors import UserError
from arcface.options.command_line import parse

HELPERS = Path(__file__).parents[1] / "helpers"

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "convert.py"
OUTPUTS = {"rec": "made/train.rec", "label": "made/list", "folder": "made/folders"}
MANY = 400  # images, so that chunks are in flight when a run is killed


def png(number: int) -> bytes:
    return cv2.imencode(".png", np.full((112, 112, 3), number, np.uint8))[1].tobytes()


def images() -> list[bytes]:
    """Ten images: PNG, JPEG, BMP and WebP, one with the mark of a record in it, two equal."""
    made = [png(number) for number in range(9)]
    for position, ending in enumerate([".jpg", ".bmp", ".webp"]):
        made[position] = cv2.imencode(ending, np.full((112, 112, 3), 50 * position, np.uint8))[1].tobytes()
    made[4] += b"0" * (-len(made[4]) % 4) + b"\x0a\x23\xd7\xce1234"
    return [*made, made[8]]


def write_folders(directory: Path, people: dict[str, list[bytes]]) -> Path:
    for person, contents in people.items():
        (directory / person).mkdir(parents=True)
        for number, content in enumerate(contents):
            (directory / person / f"{number}.png").write_bytes(content)
    return directory


def convert(source: Path, output: Path, *more: str) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    main(["--source", str(source), "--output", str(output), *more])
    return output


def tree(path: Path) -> dict[str, bytes]:
    """The bytes of all files below or, of a .rec file, beside it."""
    folder = path.parent if path.suffix == ".rec" else path
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def script(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Run as a user does, from a folder that is not the repository."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=folder)


def refusal(*arguments: str, folder: Path) -> str:
    """Convert what must not be converted; nothing changes."""
    before = tree(folder)
    with pytest.raises(UserError) as caught:
        main(list(arguments))
    assert tree(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("first, second", list(itertools.product(OUTPUTS, OUTPUTS)))
def test_images_order_and_labels_survive_any_two_conversions(tmp_path, first, second, capsys):
    labels, contents = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3], images()
    source = write_list(tmp_path / "source", labels, contents)
    one = convert(source, tmp_path / "one" / OUTPUTS[first], "--layout", first)
    assert capsys.readouterr().out == f"{one}: 10 images of 4 identities\n"
    two = convert(one, tmp_path / "two" / OUTPUTS[second], "--layout", second)
    for made, layout in (one, first), (two, second):
        assert seen(made) == (labels, contents)
        assert {"rec": made.is_file(), "label": (made / "label.txt").exists(), "folder": (made / "0000003").is_dir()}[layout]
    back = convert(two, tmp_path / "back" / OUTPUTS[first], "--layout", first)
    assert tree(back) == tree(one)


def test_a_record_file_is_as_the_packers_have_it(tmp_path):
    labels, contents = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3], images()
    records = [(number + 1, encode(label, number + 1, image)) for number, (label, image) in enumerate(zip(labels, contents))]
    records += [(0, encode([11, 15], 0, b""))]  # of the identities 11 to 14, whose records have the range of their images
    ranges = enumerate([(1, 4), (4, 5), (5, 7), (7, 11)], 11)
    records += [(key, encode(first_and_end, key, b"")) for key, first_and_end in ranges]
    offsets = [0, *itertools.accumulate(len(record) for _, record in records)]
    made = convert(write_list(tmp_path / "source", labels, contents), tmp_path / "made" / "train.rec")
    assert made.read_bytes() == b"".join(record for _, record in records)
    assert made.with_suffix(".idx").read_text() == "".join(f"{key}\t{at}\n" for (key, _), at in zip(records, offsets))
    assert made.with_name("property").read_text() == "4,112,112\n"


def test_labels_in_any_order_stay_so_where_the_layout_has_an_order(tmp_path):
    labels, contents = [1, 0, 1, 2, 0, 2, 1, 1, 0, 0], images()
    source = write_list(tmp_path / "source", labels, contents)
    for layout in "rec", "label":
        assert seen(convert(source, tmp_path / OUTPUTS[layout], "--layout", layout)) == (labels, contents)
    by_label = sorted(zip(labels, contents), key=lambda pair: pair[0])
    assert seen(convert(source, tmp_path / OUTPUTS["folder"], "--layout", "folder")) == tuple(map(list, zip(*by_label)))


def test_more_images_than_float32_can_count_are_written_without_identities(tmp_path, monkeypatch):
    monkeypatch.setattr(record_writer, "EXACT", 12)
    labels, contents = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3], images()
    made = convert(write_list(tmp_path / "source", labels, contents), tmp_path / "made" / "train.rec")
    assert seen(made) == (labels, contents)
    assert made.with_suffix(".idx").read_text().count("\n") == 10
    monkeypatch.setattr(record_writer, "EXACT", 3)
    with pytest.raises(UserError, match="4 identities"):
        convert(tmp_path / "source", tmp_path / "other" / "train.rec")


def test_names_of_identities_are_kept_and_name_folders_again(tmp_path):
    people = {"Ann Lee": images()[:3], "Bo": images()[3:4], "\u00c9mile": images()[4:]}
    folders = write_folders(tmp_path / "folders", people)
    made = convert(folders, tmp_path / "rec" / "train.rec")
    assert (made.parent / "names.txt").read_text() == "0\tAnn Lee\n1\tBo\n2\t\u00c9mile\n"
    listed = convert(made, tmp_path / "list")
    back = convert(listed, tmp_path / "back", "--layout", "folder")
    assert sorted(path.name for path in back.iterdir()) == ["Ann Lee", "Bo", "\u00c9mile"]
    assert seen(back) == seen(made) == seen(folders)


@pytest.mark.parametrize("names", [["Bo", "Ann", "Cy"], ["A", "B/../..", "C"], [".a", "b", "c"], ["a", "a", "b"]])
def test_names_that_cannot_be_folders_in_this_order_stay_in_a_list(tmp_path, names):
    source = write_list(tmp_path / "source", [0, 0, 1, 1, 1, 1, 1, 2, 2, 2], images())
    (source / "names.txt").write_text("".join(f"{label}\t{name}\n" for label, name in enumerate(names)))
    made = convert(source, tmp_path / "made", "--layout", "folder")
    assert sorted(path.name for path in made.iterdir()) == ["0000000", "0000001", "0000002", "names.txt"]
    assert seen(made) == seen(source)
    again = convert(made, tmp_path / "again")
    assert (again / "names.txt").read_text() == (source / "names.txt").read_text()


@pytest.mark.parametrize("line", ["3\tX", "0 X", "x\tX", "-1\tX"])
def test_a_wrong_list_of_names_is_explained(tmp_path, line):
    source = write_list(tmp_path / "source", [0, 1, 2], images()[:3])
    (source / "names.txt").write_text(f"0\tA\n\n{line}\n")
    assert "names.txt line 3: " in refusal("--source", str(source), "--output", str(tmp_path / "made"), folder=tmp_path)


@pytest.mark.parametrize("layout, damage", [("rec", 0), ("rec", 5), ("rec", 36), ("label", 0), ("folder", 0)])
def test_a_killed_run_goes_on_where_it_was(start_process, tmp_path, layout, damage):
    contents = [png(number % 256) + b"%d" % number for number in range(MANY)]
    source = write_list(tmp_path / "source", [number // 4 for number in range(MANY)], contents)
    whole = convert(source, tmp_path / "whole" / OUTPUTS[layout], "--layout", layout)
    made = tmp_path / OUTPUTS[layout]
    made.parent.mkdir()
    command = ["--source", str(source), "--output", str(made), "--layout", layout, "--num_workers=2"]
    partial = made.with_name(f"{made.name}.partial")
    held = [HELPERS / "held.py", f"{MANY - 30}.jpg", "convert"]
    running = start_process([sys.executable, *held, *command], stderr=subprocess.DEVNULL)
    before = 320  # images in chunks of 64 before the one with the late image
    size = sum(32 + len(content) for content in contents[:before])
    for _ in range(600):
        if (partial.is_file() and partial.stat().st_size >= size) or len(tree(partial)) > before:  # with the mark
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    assert partial.exists() and not made.exists()
    if damage:
        os.truncate(partial, partial.stat().st_size - damage)
    done = script(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    there = int(done.stdout.split("identities, ")[1].split()[0])
    assert before - bool(damage) <= there < MANY
    assert tree(made) == tree(whole)
    assert not partial.exists()


@pytest.mark.parametrize("layout", OUTPUTS)
@pytest.mark.parametrize("change", ["labels", "images"])
def test_a_run_begun_from_other_images_is_not_gone_on_with(tmp_path, layout, change):
    source = write_list(tmp_path / "source", [0, 0, 1, 1, 2, 2, 2, 3, 3, 3], images())
    (source / "images" / "9.jpg").rename(tmp_path / "late.jpg")
    command = ["--source", str(source), "--output", str(tmp_path / OUTPUTS[layout]), "--layout", layout]
    (tmp_path / "made").mkdir()
    monkey = pytest.MonkeyPatch()
    monkey.setattr(ordered_map, "CHUNK", 1)
    with pytest.raises(UserError, match="9.jpg"):
        main(command)
    monkey.undo()
    (tmp_path / "late.jpg").rename(source / "images" / "9.jpg")
    if change == "labels":
        (source / "label.txt").write_text((source / "label.txt").read_text().replace("1.jpg\t0", "1.jpg\t1"))
    else:
        other = write_list(tmp_path / "other", [0, 0, 1, 1, 2, 2, 2, 3, 3, 3], [image[:-1] + b"x" for image in images()])
        command[1] = str(other)
    assert "begun for other images or labels; remove it" in refusal(*command, folder=tmp_path)


def test_records_beyond_a_list_that_was_cut_do_not_stay(tmp_path, monkeypatch):
    contents = images()
    source = write_list(tmp_path / "source", [0, 0, 1, 1, 2, 2, 2, 3, 3, 3], contents)
    (source / "images" / "9.jpg").unlink()
    with monkeypatch.context() as patch, pytest.raises(UserError, match="9.jpg"):
        patch.setattr(ordered_map, "CHUNK", 1)
        convert(source, tmp_path / "made" / "train.rec")
    (source / "label.txt").write_text("".join(f"images/{number}.jpg\t{number // 2}\n" for number in range(4)))
    made = convert(source, tmp_path / "made" / "train.rec")
    assert tree(made) == tree(convert(source, tmp_path / "other" / "train.rec"))
    assert seen(made) == ([0, 0, 1, 1], contents[:4])


def test_nothing_is_overwritten(tmp_path):
    source = write_list(tmp_path / "source", [0, 1, 1], images()[:3])
    for kept, output in [("a.rec", "a.rec"), ("b.idx", "b.rec"), ("property", "c.rec"), ("d", "d")]:
        (tmp_path / kept).write_text("three years")
        message = refusal("--source", str(source), "--output", str(tmp_path / output), folder=tmp_path)
        assert message.startswith(f"{tmp_path / kept}: exists already")
        (tmp_path / kept).unlink()
    (tmp_path / "empty").mkdir()
    assert "exists already" in refusal("--source", str(source), "--output", str(tmp_path / "empty"), folder=tmp_path)


def test_a_second_process_does_not_write_into_the_first_ones_files(tmp_path):
    source = write_list(tmp_path / "source", [0, 1, 1], images()[:3])
    with locked_partial(tmp_path / "a.rec.partial"):
        assert "another process" in refusal("--source", str(source), "--output", str(tmp_path / "a.rec"), folder=tmp_path)
    convert(source, tmp_path / "a.rec")


def test_an_output_among_the_folders_of_the_source_is_refused(tmp_path):
    source = write_folders(tmp_path / "source", {"a": images()[:2], "b": images()[2:]})
    assert "lies in" in refusal("--source", str(source), "--output", str(source / "c"), folder=tmp_path)


def test_a_full_disk_is_explained_and_the_run_goes_on_later(tmp_path, monkeypatch):
    source = write_list(tmp_path / "source", [0, 1, 1], images()[:3])

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(record_writer.os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device.; correct that, then the same command resumes"):
            convert(source, tmp_path / "made" / "train.rec")
    assert not (tmp_path / "made" / "train.rec").exists()
    assert seen(convert(source, tmp_path / "made" / "train.rec")) == seen(source)


@pytest.mark.parametrize(
    "content, complaint",
    [(None, "1.jpg"), (b"", "1.jpg: the image is empty"), (b"GIF89a", "1.jpg: neither JPEG, PNG, BMP nor WebP")],
)
def test_an_image_that_cannot_be_written_is_named(tmp_path, content, complaint):
    source = write_list(tmp_path / "source", [0, 1, 1], images()[:3])
    (source / "images" / "1.jpg").unlink()
    if content is not None:
        (source / "images" / "1.jpg").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        convert(source, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_readers_do_not_run_ahead_of_the_writer():
    waiting, most, lock = 0, 0, threading.Lock()

    def read(chunk):
        nonlocal waiting
        with lock:
            waiting += len(chunk)
        return list(chunk)

    rows = []
    for chunk in ordered_map.ordered_map(read, range(10, 20_000), 2, "reading"):
        most = max(most, waiting)
        rows += chunk
        time.sleep(1e-4)
        with lock:
            waiting -= len(chunk)
    assert rows == list(range(10, 20_000))
    assert most <= (4 * 2 + 1) * ordered_map.CHUNK


def test_an_error_is_one_line_and_exit_code_2(tmp_path):
    write_list(tmp_path / "source", [0, 1, 1], images()[:3])
    for arguments, words in [
        (["--source=nowhere", "--output=a.rec"], "nowhere"),
        (["--source=source", "--output=a.rec", "--num_workers=0"], "--num_workers"),
        (["--source=source", "--output=a.rec", "--layout=label"], "ends in .rec"),
        (["--source=source", "--output=a", "--layout=rec"], "ends in .rec"),
        (["--source=source", "--output=absent/a.rec"], "directory does not exist"),
        (["--source=source", "--output=a", "--layout=tar"], "--layout"),
        (["--source=source"], "output"),
    ]:
        done = script(*arguments, folder=tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
    assert os.listdir(tmp_path) == ["source"]


def test_help_shows_commands_that_work(tmp_path):
    done = script("--help", folder=tmp_path)
    commands = [line for line in done.stdout.splitlines() if "python datasets/convert.py" in line]
    assert [parse(ConvertOptions, line.split()[2:]).layout for line in commands] == [None, "folder", None]


def test_no_paddle_is_imported(tmp_path):
    source = write_list(tmp_path / "source", [0, 1, 1], images()[:3])
    code = "import sys; from arcface import convert; convert.main(sys.argv[1:]); sys.exit('paddle' in sys.modules)"
    command = [sys.executable, "-c", code, "--source", str(source), "--output", str(tmp_path / "a.rec")]
    subprocess.run(command, check=True, capture_output=True)


def test_real_faces_survive_all_layouts(real_data, tmp_path):
    shutil.copytree(real_data / "celeba", tmp_path / "celeba", copy_function=os.symlink)
    made = convert(tmp_path / "celeba", tmp_path / "made" / "train.rec")
    folders = convert(made, tmp_path / "folders", "--layout", "folder")
    assert seen(convert(folders, tmp_path / "list")) == seen(real_data / "celeba")
