"""Every mistake in a protocol directory is named, and its lists are read in blocks."""

import io
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_files import LIST, PAIRS, landmark_lines, refusal, write

from arcface.data.alignment import TEMPLATE
from arcface.verification import ijb
from arcface.verification.ijb import load_image, read_pairs, read_protocol
from arcface.verification.templates import score

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=150)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


# the list of pairs


@thorough
@given(
    st.lists(st.tuples(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1), st.integers(0, 1)), max_size=30), st.integers(1, 60)
)
def test_plain_and_untidy_lists_of_pairs_are_read_alike(tmp_path_factory, pairs, block_bytes):
    path = tmp_path_factory.getbasetemp() / "alike.txt"
    ids = np.unique(np.array([pair[:2] for pair in pairs] or [0], np.int64))
    for line in ("{} {} {}\n", "{} {} {}\r\n", "{}  {} 0{}\n"):
        path.write_text("".join(line.format(*pair) for pair in pairs), newline="")
        blocks = [np.column_stack([ids[rows], same]) for rows, same in read_pairs(path, ids, "", block_bytes)]
        assert [tuple(pair) for block in blocks for pair in block.tolist()] == pairs


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_plain_lists_of_pairs_are_read_in_bulk_not_line_by_line(tmp_path, monkeypatch, end):
    monkeypatch.delattr(ijb, "_parse_pair")
    path = tmp_path / "pairs.txt"
    path.write_text(f"10 20 1{end}" * 20_000, newline="")
    assert sum(len(rows) for rows, _ in read_pairs(path, np.array([10, 20]), "")) == 20_000


@pytest.mark.parametrize(
    "line",
    [
        "10 20",
        "10  20",
        "10 20 ",
        "10 20 1 1",
        "10 20 2",
        "10 20 -1",
        "-10 20 1",
        "10 20 1.0",
        "10 x 1",
        "10 20 yes",
        "ten 20 1",
        "10,20,1",
        "10 20 12345678901234567890",
        "9" * 5000 + " 20 1",
        "10 20 1 30 40 0",
        "10",
        "\0",
        "\N{BULLET}",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("block_bytes", [1, 20, 2**16])
def test_a_wrong_pair_is_named_by_its_line(tmp_path, line, end, block_bytes):
    path = tmp_path / "pairs.txt"
    for good in (0, 40):  # far into the file, and in its first line
        path.write_bytes((f"10 20 1{end}" * good + line + end + f"20 10 0{end}").encode())
        message = refusal(lambda: list(read_pairs(path, np.array([10, 20]), "", block_bytes)))
        quoted = line.strip()[:10].replace("\0", r"\x00")
        assert message.startswith(f"{path} line {good + 1}: '{quoted}")
        assert "is not two template numbers and 1 or 0" in message
        assert len(message) < 300 + len(str(path))


@pytest.mark.parametrize("number", [0, 15, 25, 99])
@pytest.mark.parametrize("gap", ["\n", "\n\n \n"], ids=["plain", "with blank lines"])
@pytest.mark.parametrize("block_bytes", [1, 50, 2**16])
def test_a_template_without_images_is_named_by_its_line(tmp_path, number, gap, block_bytes):
    path = tmp_path / "pairs.txt"
    path.write_text(f"10 20 1{gap}" * 9 + f"20 {number} 0\n10 20 1\n")
    message = refusal(lambda: list(read_pairs(path, np.array([10, 20]), "", block_bytes)))
    assert message.startswith(f"{path} line {9 * gap.count(chr(10)) + 1}: no image belongs to template {number};")


def test_a_file_without_lines_is_not_held_whole(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"7" * 50_000_000)
    tracemalloc.start()
    assert "line 1: '777" in refusal(lambda: list(read_pairs(path, np.array([10]), "")))
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "pairs, complaint",
    [
        ("", "lists no pairs"),
        (" \n\r\n", "lists no pairs"),
        ("10 20 1\n" * 3, "all 3 pairs show the same identity"),
        ("10 20 0\n10 30 0\n", "all 2 pairs show different identities"),
    ],
)
def test_pairs_that_have_no_roc_are_reported(tmp_path, pairs, complaint):
    directory = write(tmp_path, pairs=pairs)
    path = directory / "meta" / "ijbx_template_pair_label.txt"
    for message in (refusal(read_protocol, directory), refusal(score, path, np.array([10, 20, 30]), np.eye(3))):
        assert message.startswith(f"{path}: {complaint}")


def test_the_progress_bar_is_shown_on_a_terminal_only(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        read_protocol(write(tmp_path))
        assert ("checking ijbx" in stream.getvalue()) == shown


# the protocol directory


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_landmarks_and_detector_scores_are_read(tmp_path, end):
    lines = landmark_lines(range(1, 7)) + landmark_lines([7], TEMPLATE + 1, 0.25)
    listed, lines = LIST.replace("\n", end), lines.replace("\n", end)
    protocol = read_protocol(write(tmp_path, listed, PAIRS.replace("\n", end), lines, images="loose_crop"))
    assert protocol.images[6] == b"7.jpg" and protocol.media[6] == 1
    assert protocol.landmarks.dtype == np.float32 and protocol.landmarks.shape == (7, 5, 2)
    assert protocol.landmarks[0] == pytest.approx(TEMPLATE) and protocol.landmarks[6] == pytest.approx(TEMPLATE + 1)
    assert protocol.detector_scores.dtype == np.float32 and protocol.detector_scores.tolist() == [0.5] * 6 + [0.25]


def test_aligned_crops_take_the_detector_scores_only(tmp_path):
    protocol = read_protocol(write(tmp_path, landmarks=landmark_lines()))
    assert protocol.landmarks is None and protocol.detector_scores.tolist() == [0.5] * 7


def test_of_both_kinds_of_images_the_loose_crops_are_taken_if_they_have_landmarks(tmp_path):
    write(tmp_path, images="images")
    assert read_protocol(write(tmp_path, images="loose_crop")).directory.name == "images"
    assert read_protocol(write(tmp_path, landmarks=landmark_lines())).directory.name == "loose_crop"


def test_any_single_prefix_is_found_and_among_several_the_directory_s(tmp_path):
    assert read_protocol(write(tmp_path, prefix="my_own")).name == "my_own"
    message = refusal(read_protocol, write(tmp_path, prefix="other"))
    assert "several protocols, none of the directory's name" in message
    assert read_protocol(write(tmp_path, prefix="ijbx")).name == "ijbx"


@pytest.mark.parametrize("name", ["face_tid_mid", "template_pair_label"])
def test_a_missing_list_is_named(tmp_path, name):
    directory = write(tmp_path)
    (directory / "meta" / f"ijbx_{name}.txt").unlink()
    message = refusal(read_protocol, directory)
    assert message.startswith(str(directory / "meta")) and f"{name}.txt" in message and "no such file" in message.lower()


def test_missing_directories_are_named(tmp_path):
    assert "_face_tid_mid.txt: no such file; pass a protocol directory" in refusal(read_protocol, tmp_path / "absent")
    directory = write(tmp_path, images=None)
    assert refusal(read_protocol, directory).startswith(f"{directory / 'loose_crop'}: No such file")


def test_loose_crops_need_their_landmarks(tmp_path):
    message = refusal(read_protocol, write(tmp_path, images="loose_crop"))
    assert "ijbx_name_5pts_score.txt: No such file or directory; restore it, or put aligned" in message


def test_a_missing_image_is_named_by_its_line(tmp_path):
    directory = write(tmp_path, "\n" + LIST)
    (directory / "images" / "3.jpg").unlink()
    assert f"face_tid_mid.txt line 4: {directory / 'images' / '3.jpg'}: no such file" in refusal(read_protocol, directory)


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("3.jpg 10", "is not an image, a template number and a media number"),
        ("10 8", "is not an image"),
        ("3.jpg", "is not an image"),
        ("3.jpg 10 x", "is not an image"),
        ("3.jpg 10 -8", "is not an image"),
        ("3.jpg 1.5 8", "is not an image"),
        ("3.jpg 10 1234567890123456789", "is not an image"),
        ("/etc/3.jpg 10 8", "has a path that leaves the directory"),
        ("../3.jpg 10 8", "has a path that leaves"),
        ("a/../../3.jpg 10 8", "has a path that leaves"),
        ("a/3.jpg 10 8", "a/3.jpg: no such file"),
        ("3\0.jpg 10 8", "no such file"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_wrong_line_of_the_list_is_named(tmp_path, line, complaint, end):
    message = refusal(read_protocol, write(tmp_path, LIST.replace("3.jpg 10 8", line).replace("\n", end)))
    assert "ijbx_face_tid_mid.txt line 3: " in message and complaint in message


def test_a_list_of_no_images_is_reported(tmp_path):
    assert "lists no images" in refusal(read_protocol, write(tmp_path, "\n\n"))


@pytest.mark.parametrize(
    "line",
    [
        "3.jpg 1 2 3 4 5 6 7 8 9 10",
        "3.jpg 1 2 3 4 5 6 7 8 9 x 0.5",
        "3.jpg 1 2 3 4 5 6 7 8 9 nan 0.5",
        "3.jpg 1 2 3 4 5 6 7 8 9 10 inf",
        "3.jpg",
    ],
)
def test_a_wrong_line_of_the_landmarks_is_named(tmp_path, line):
    lines = landmark_lines([1, 2]) + line + "\n" + landmark_lines(range(4, 8))
    message = refusal(read_protocol, write(tmp_path, landmarks=lines))
    assert f"ijbx_name_5pts_score.txt line 3: '{line[:20]}" in message and "is not an image, ten coordinates and a score" in message


def test_landmarks_of_other_images_are_reported(tmp_path):
    message = refusal(read_protocol, write(tmp_path, landmarks=landmark_lines([1, 3, 2, 4, 5, 6, 7])))
    assert "5pts_score.txt line 2: '3.jpg" in message and "is where ijbx_face_tid_mid.txt lists '2.jpg'" in message
    for names, count in (range(1, 7), 6), (range(1, 9), 8), ([], 0):
        message = refusal(read_protocol, write(tmp_path, landmarks=landmark_lines(names)))
        assert f"5pts_score.txt: lists {count} images, and ijbx_face_tid_mid.txt lists 7" in message


# load_image


def test_aligned_crops_are_decoded_to_rgb(tmp_path):
    directory = write(tmp_path)
    red = np.zeros((112, 112, 3), np.uint8)
    red[:50, :, 2] = 255  # OpenCV writes BGR
    (directory / "images" / "4.jpg").write_bytes(png(red))
    image = load_image(read_protocol(directory), 3)
    assert image.shape == (3, 112, 112) and image.dtype == np.uint8
    assert (image[0, :50] == 255).all() and (image[0, 50:] == 0).all() and (image[1:] == 0).all()


def test_loose_crops_are_aligned_by_their_landmarks(tmp_path):
    face = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    loose = np.zeros((200, 180, 3), np.uint8)
    loose[40:152, 30:142] = face
    lines = landmark_lines([1, 2, 3]) + landmark_lines([4], TEMPLATE + [30, 40]) + landmark_lines([5, 6, 7])
    directory = write(tmp_path, landmarks=lines, images="loose_crop")
    (directory / "loose_crop" / "4.jpg").write_bytes(png(loose))
    image = load_image(read_protocol(directory), 3)
    assert image.shape == (3, 112, 112) and image.dtype == np.uint8
    # float32 landmarks make the shift inexact by some millionths of a pixel
    assert np.abs(image.astype(int) - face.transpose(2, 0, 1)[::-1]).max() <= 1


@pytest.mark.parametrize("images", ["images", "loose_crop"])
@pytest.mark.parametrize("content", [b"", b"no image"])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, images, content):
    directory = write(tmp_path, landmarks=landmark_lines(), images=images)
    (directory / images / "4.jpg").write_bytes(content)
    message = refusal(load_image, read_protocol(directory), 3)
    assert message.startswith(f"{directory / images / '4.jpg'}: not an image that OpenCV can decode")


def test_a_crop_of_another_size_and_one_that_vanished_are_named(tmp_path):
    directory = write(tmp_path)
    protocol = read_protocol(directory)
    (directory / "images" / "4.jpg").write_bytes(png(np.zeros((112, 96, 3), np.uint8)))
    assert "4.jpg: the image is 96x112 pixels" in refusal(load_image, protocol, 3)
    (directory / "images" / "4.jpg").unlink()
    assert "4.jpg: No such file or directory; restore the image" in refusal(load_image, protocol, 3)


def test_landmarks_that_cannot_be_aligned_are_named_with_their_image(tmp_path):
    directory = write(tmp_path, landmarks=landmark_lines(points=np.full((5, 2), 30)), images="loose_crop")
    (directory / "loose_crop" / "4.jpg").write_bytes(png(np.zeros((50, 60, 3), np.uint8)))
    message = refusal(load_image, read_protocol(directory), 3)
    assert message.startswith(f"{directory / 'loose_crop' / '4.jpg'}: cannot be aligned by its landmarks (the points determine")
