"""The label file is read as users write it, and every mistake in it is named with file and line."""

import os
import pickle
import struct
import sys
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arcface.data.datasets import label_list, listed_images
from arcface.data.datasets.label_list import LabelFile
from arcface.errors import UserError
from arcface.io import text


def listed(tmp_path, content: bytes, **options) -> LabelFile:
    (tmp_path / "label.txt").write_bytes(content)
    return LabelFile(str(tmp_path), **options)


@pytest.mark.parametrize(
    "content",
    [
        b"images/a.jpg\t0\nimages/b c.jpg\t1\n",
        b"images/a.jpg 0\nimages/b c.jpg   1",
        b"# path and label\n\nimages/a.jpg\t0\n  # none\nimages/b c.jpg \t 1\n",
        b"\xef\xbb\xbfimages/a.jpg\t0\r\nimages/b c.jpg\t1\r\n",
    ],
    ids=["tab", "spaces", "comments", "windows"],
)
def test_tabs_spaces_comments_and_windows_line_ends_are_read_alike(tmp_path, content):
    dataset = listed(tmp_path, content)
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == [0, 1]
    assert dataset.num_classes == 2 and len(dataset) == 2
    assert [dataset.name(index).rpartition(": ")[2] for index in range(2)] == ["images/a.jpg", "images/b c.jpg"]


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"a.jpg\t0\nb.jpg\n", r"label.txt line 2: 'b.jpg' is not a path, a tab and a whole number"),
        (b"a.jpg\t0\nb.jpg\t1.5\n", r"label.txt line 2: 'b.jpg\t1.5' is not a path"),
        (b"a.jpg\t0\nb.jpg\t--1\n", r"label.txt line 2: 'b.jpg\t--1' is not a path"),
        (b"# c\na.jpg\tx\n", r"label.txt line 2: 'a.jpg\tx' is not a path"),
        (b"a.jpg\t0\nb.jpg\t-1\n", r"label.txt line 2: 'b.jpg\t-1' has a label that is not a class number"),
        (b"a.jpg\t0\nb.jpg\t99999999999\n", r"label.txt line 2: 'b.jpg\t99999999999' has a label that is not"),
        (b"a.jpg\t0\nb.jpg\t2\n", r"label.txt line 2: labels must count up from 0 without a gap, but no line has label 1"),
        (b"a.jpg\t1\n", r"label.txt line 1: labels must count up .* no line has label 0"),
        (b"", r"label.txt: lists no images"),
        (b"# nothing\n", r"label.txt: lists no images"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        listed(tmp_path, content)


def test_a_label_beyond_num_classes_is_named(tmp_path):
    with pytest.raises(UserError, match="line 2: label 1 is not below --num_classes 1"):
        listed(tmp_path, b"a.jpg\t0\nb.jpg\t1\n", num_classes=1)
    assert listed(tmp_path, b"a.jpg\t0\nb.jpg\t1\n", num_classes=5).num_classes == 5


def test_paths_that_lead_outside_are_read_when_that_is_allowed(tmp_path, make_data_set):
    images = make_data_set(2, 2) / "images"
    content = f"{images}/00000000.jpg\t0\n../{images.parent.name}/images/00000001.jpg\t1\n".encode()
    (tmp_path / "data").symlink_to(images.parent)
    (images.parent.parent / "elsewhere").mkdir()
    with pytest.raises(UserError, match="line 1: /.*jpg: leads out of --data_dir; correct it, or allow it with --outside_paths 1"):
        listed(images.parent.parent / "elsewhere", content)
    dataset = listed(images.parent.parent / "elsewhere", content, outside_paths=True)
    dataset.scan(2)
    assert [dataset.encoded(index) for index in range(2)] == [path.read_bytes() for path in sorted(images.iterdir())]


def test_lines_that_repeat_another_are_found_and_two_labels_are_refused(tmp_path):
    lines = [b"%d.jpg\t%d\n" % (number, number % 2) for number in range(500)]
    assert [found.tolist() for found in listed(tmp_path, b"".join(lines)).repeated()] == [[], []]
    again = listed(tmp_path, b"".join([*lines, lines[3], lines[8], lines[3]]))
    assert [found.tolist() for found in again.repeated()] == [[500, 501, 502], [3, 8, 3]]
    with pytest.raises(UserError, match="lines 4 and 502: 3.jpg has label 1 and label 0; remove the wrong line"):
        listed(tmp_path, b"".join([*lines, lines[8], b"3.jpg\t0\n"])).scan(0)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match="label.txt: No such file or directory; pass the dataset with --data_dir"):
        LabelFile(str(tmp_path))


NAMES = st.text(st.sampled_from("a/.0 é#"), min_size=1, max_size=6).map(str.strip).filter(lambda name: name and name[0] not in "#/")
ROWS = st.lists(st.one_of(st.sampled_from(["", "  ", "# none", "\t#x 1"]), NAMES), min_size=1, max_size=40)


@settings(deadline=None, derandomize=True, database=None)
@given(ROWS, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.integers(1, 50), st.integers(1, 5))
def test_a_list_is_read_as_a_loop_over_its_lines_reads_it(tmp_path_factory, rows, line_end, ends, block_size, rows_at_once):
    directory, images, written = tmp_path_factory.mktemp("list"), [], []
    for number, row in enumerate(rows, 1):
        if row.strip() and not row.strip().startswith("#"):
            images.append((number, row, len(images) % 2))
            row = f"{row}\t{images[-1][2]}"
        written.append(row)
    assume(len(images) > 1)
    (directory / "label.txt").write_bytes((line_end.join(written) + line_end * ends).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_BLOCK", block_size)
        patch.setattr(label_list, "_LINES_AT_ONCE", rows_at_once)
        dataset = LabelFile(directory, outside_paths=True)
        assert dataset.labels.tolist() == [label for *_, label in images]
        assert list(dataset._paths()) == [name.encode() for _, name, _ in images]
        for index, (number, name, _) in enumerate(images):
            assert dataset.name(index) == f"{directory}/label.txt line {number}: {name}"


def test_a_list_that_is_replaced_stays_what_it_was_and_one_that_is_changed_is_noticed(tmp_path):
    dataset = listed(tmp_path, b"a.jpg\t0\nb.jpg\t1\nc.jpg\t1\n")
    (tmp_path / "new.txt").write_bytes(b"x.jpg\t0\n")
    os.replace(tmp_path / "new.txt", tmp_path / "label.txt")
    assert [dataset._path(index) for index in range(3)] == [b"a.jpg", b"b.jpg", b"c.jpg"]
    dataset = listed(tmp_path, b"a.jpg\t0\nb.jpg\t1\nc.jpg\t1\n")
    other_order, longer = b"b.jpg\t1\na.jpg\t0\nc.jpg\t1\n", b"a.jpg\t0\nlonger.jpg\t1\nc.jpg\t1\n"
    within_a_path = b"a\t0\nbbbbb.jpg\t1\nc.jpg\t1\n"
    for content in (other_order, longer, within_a_path, b"aa.jpg\t0\nb.jpg\t1\n", b""):
        (tmp_path / "label.txt").write_bytes(content)
        with pytest.raises(UserError, match="label.txt line [123]: the list was changed after it was opened; resume with"):
            for index in range(3):
                dataset._path(index)
    (tmp_path / "label.txt").write_bytes(b"a.jpg\t0\nb.jpg\t1\nc.jpg\t1\nd.jpg\t2\n")
    assert [dataset._path(index) for index in range(3)] == [b"a.jpg", b"b.jpg", b"c.jpg"]


@pytest.mark.parametrize("missing", [[0], [699], [350, 351], range(0, 700, 7)])
def test_the_first_of_many_files_that_is_missing_is_found(tmp_path, monkeypatch, missing):
    monkeypatch.setattr(listed_images, "_AT_ONCE", 10)
    paths = [f"{number % 5}/{number}.jpg" for number in range(700)]
    for number, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).with_suffix(".txt").touch()  # not listed
        if number not in missing:
            (tmp_path / path).touch()
    content = "".join(f"{path}\t{number % 2}\n" for number, path in enumerate(paths)).encode()
    with pytest.raises(UserError, match=f"label.txt line {missing[0] + 1}: {paths[missing[0]]}: no such file"):
        listed(tmp_path, content).scan(0)
    for number in missing:
        (tmp_path / paths[number]).touch()
    listed(tmp_path, content).scan(0)


def test_a_list_is_kept_in_twelve_bytes_an_image(tmp_path):
    """Whatever the length of its paths; a list of Python strings would take ten times as much."""
    content = b"".join(b"%s/%08d.jpg\t%d\n" % (b"x" * 80, number, number % 2) for number in range(50_000))
    dataset = listed(tmp_path, content)
    assert dataset.labels.nbytes + dataset._starts.nbytes == 12 * 50_000
    tracemalloc.start()
    dataset = listed(tmp_path, content)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 15 * 50_000 and peak < 20_000_000


def test_the_scan_names_the_line_of_a_missing_image(make_data_set):
    directory = make_data_set(5, 2)
    (directory / "images" / "00000003.jpg").unlink()
    with pytest.raises(UserError, match="label.txt line 4: images/00000003.jpg: no such file"):
        LabelFile(str(directory)).scan(0)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not an image"),
        (b"no image at all", "not an image"),
        (cv2.imencode(".png", np.zeros((112, 96, 3), np.uint8))[1].tobytes(), "96x112 pixels, not 112x112"),
    ],
    ids=["empty", "garbage", "size"],
)
def test_the_scan_names_the_line_of_an_undecodable_or_wrongly_sized_image(make_data_set, content, complaint):
    directory = make_data_set(5, 2)
    (directory / "images" / "00000003.jpg").write_bytes(content)
    LabelFile(str(directory)).scan(2)  # the first and the last only
    with pytest.raises(UserError, match=f"label.txt line 4: images/00000003.jpg: .*{complaint}"):
        LabelFile(str(directory)).scan(5)


def test_images_that_are_listed_again_are_found_with_their_first_rows(tmp_path):
    again, first = listed(tmp_path, b"a.jpg\t0\nb.jpg\t1\nb.jpg\t0\nc.jpg\t1\na.jpg\t0\nb.jpg\t1\n").repeated()
    assert again.tolist() == [2, 4, 5] and first.tolist() == [1, 0, 1]
    again, first = listed(tmp_path, b"a.jpg\t0\nb.jpg\t1\n").repeated()
    assert len(again) == len(first) == 0


def one_image_record(value: bytes) -> bytes:
    return struct.pack("<I", 3) + b"key" + struct.pack("<I", len(value)) + value


def test_the_2021_toolkit_s_one_image_records_are_read(tmp_path, make_data_set):
    encoded = (make_data_set(1, 1) / "images" / "00000000.jpg").read_bytes()
    dataset = listed(tmp_path, b"a.bin\t0\nb.bin\t1\n")
    (tmp_path / "a.bin").write_bytes(one_image_record(pickle.dumps(encoded)))
    (tmp_path / "b.bin").write_bytes(one_image_record(pickle.dumps(np.frombuffer(encoded, np.uint8))))
    assert dataset.encoded(0) == dataset.encoded(1) == encoded


class Attack:
    def __reduce__(self):
        return sys.exit, (99,)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"\0\0", "not a one-image record"),
        (one_image_record(pickle.dumps(b"x" * 50))[:-9], "ends 9 bytes early"),
        (one_image_record(pickle.dumps({"a": 1})), "contains dict"),
        (one_image_record(pickle.dumps(Attack())), "exit"),
    ],
    ids=["short", "truncated", "type", "attack"],
)
def test_a_one_image_record_that_is_not_one_is_refused(tmp_path, content, complaint):
    dataset = listed(tmp_path, b"a.bin\t0\n", num_classes=2)
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        dataset.encoded(0)
