"""The label file is read as users write it, and every mistake in it is named with file and line."""

import pickle
import struct
import sys

import cv2
import numpy as np
import pytest

from arcface.data.label_file import LabelFile
from arcface.errors import UserError


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
    source = listed(tmp_path, content)
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0, 1]
    assert source.num_classes == 2 and len(source) == 2
    assert [source.name(index).rpartition(": ")[2] for index in range(2)] == ["images/a.jpg", "images/b c.jpg"]


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


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match="label.txt: No such file or directory; give the data set with --data_dir"):
        LabelFile(str(tmp_path))


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


def test_a_sample_is_spread_over_the_list_from_the_first_to_the_last(tmp_path):
    source = listed(tmp_path, b"".join(b"%d.jpg\t0\n" % index for index in range(101)))
    assert source.spread(5).tolist() == [0, 25, 50, 75, 100]
    assert source.spread(1000).tolist() == list(range(101)) and source.spread(0).size == 0


def one_image_record(value: bytes) -> bytes:
    return struct.pack("<I", 3) + b"key" + struct.pack("<I", len(value)) + value


def test_the_2021_toolkit_s_one_image_records_are_read(tmp_path, make_data_set):
    encoded = (make_data_set(1, 1) / "images" / "00000000.jpg").read_bytes()
    source = listed(tmp_path, b"a.bin\t0\nb.bin\t0\n")
    (tmp_path / "a.bin").write_bytes(one_image_record(pickle.dumps(encoded)))
    (tmp_path / "b.bin").write_bytes(one_image_record(pickle.dumps(np.frombuffer(encoded, np.uint8))))
    assert source.encoded(0) == source.encoded(1) == encoded


class Attack:
    def __reduce__(self):
        return sys.exit, (99,)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"\0\0", "not a one-image record"),
        (one_image_record(pickle.dumps(b"x" * 50))[:-9], "ends 9 bytes early"),
        (one_image_record(pickle.dumps({"a": 1})), "holds dict"),
        (one_image_record(pickle.dumps(Attack())), "exit"),
    ],
    ids=["short", "truncated", "type", "attack"],
)
def test_a_one_image_record_that_is_not_one_is_refused(tmp_path, content, complaint):
    source = listed(tmp_path, b"a.bin\t0\n")
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        source.encoded(0)
