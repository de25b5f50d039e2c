"""InsightFace's `.bin` sets are read as they are, and what is wrong with one is said in a line."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from arcface.errors import UserError
from arcface.images import decode
from arcface.verification.bin_file import read_bin

IMAGES = [b"\xff\xd8 first", b"\xff\xd8\x00\x00", b"\x89PNG", b"\xff fourth", b"\xff\xd8 first", b"last\x00"]
SAME = [True, False, True]


def write(folder: Path, content, protocol: int = 2) -> Path:
    path = folder / "cfp_fp.bin"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_bin(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("images", [
    IMAGES,
    tuple(IMAGES),
    [np.frombuffer(image, np.uint8) for image in IMAGES],
    np.array(IMAGES, dtype=object),
], ids=["list of bytes", "tuple of bytes", "list of arrays", "array of bytes"])  # fmt: skip
@pytest.mark.parametrize("same", [
    SAME,
    [1, 0, 1],
    tuple(SAME),
    np.array(SAME),
    np.array([1, 0, 1], np.int32),
    [np.bool_(flag) for flag in SAME],
], ids=["list of bool", "list of 0/1", "tuple", "array of bool", "array of 0/1", "NumPy bools"])  # fmt: skip
def test_every_form_of_the_format_gives_the_same_set(tmp_path, images, same, protocol):
    pairs = read_bin(write(tmp_path, (images, same), protocol))
    assert pairs.name == "cfp_fp"
    assert pairs.images == IMAGES and all(type(image) is bytes for image in pairs.images)
    assert pairs.same.dtype == bool and pairs.same.tolist() == SAME


def test_a_set_that_python_2_wrote_loads(tmp_path):
    images = b"".join(b"U" + struct.pack("<B", len(image)) + image for image in IMAGES)
    path = tmp_path / "lfw.bin"
    path.write_bytes(b"\x80\x02](" + images + b"e](\x88\x89\x88e\x86.")
    pairs = read_bin(str(path))
    assert pairs.name == "lfw" and pairs.images == IMAGES and pairs.same.tolist() == SAME


def test_a_missing_file_is_reported(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.bin")
    assert "directory" in refusal(tmp_path)


def test_a_file_cut_off_is_reported(tmp_path):
    path = write(tmp_path, (IMAGES, SAME))
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut off" in refusal(path)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_hostile_set_is_refused_before_it_runs(tmp_path):
    marker = tmp_path / "it ran"
    path = write(tmp_path, ([Call(os.mkdir, str(marker)), *IMAGES[1:]], SAME))
    assert f"{os.mkdir.__module__}.mkdir" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("content, detail", [
    ({"conv1.weight": np.zeros(3)}, "does not hold two lists"),
    ((IMAGES, SAME, []), "does not hold two lists"),
    ([], "does not hold two lists"),
    (b"ab", "does not hold two lists"),
    ((None, None), "does not hold two lists"),
    ((b"ab", [True]), "does not hold two lists"),
    ((dict.fromkeys("ab"), [True]), "does not hold two lists"),
    ((np.array(IMAGES), SAME), "does not hold two lists"),  # NumPy's bytes lose the zeros at their end
    ((IMAGES, np.array([SAME])), "does not hold two lists"),
    ((["text"] * 6, SAME), "image 0 is a str"),
    ((IMAGES[:3] + [None] + IMAGES[4:], SAME), "image 3 is a NoneType"),
    ((IMAGES[:5] + [np.zeros(4, np.float32)], SAME), "image 5 is a ndarray"),
    ((IMAGES, [True, 2, False]), "the flag of pair 1"),
    ((IMAGES, [True, False, "True"]), "the flag of pair 2"),
    ((IMAGES, [None, True, False]), "the flag of pair 0"),
    ((IMAGES, [0.5, True, False]), "the flag of pair 0"),
    ((IMAGES, [[True], True, False]), "the flag of pair 0"),
    ((IMAGES, [np.array([1, 0]), True, False]), "the flag of pair 0"),
])  # fmt: skip
def test_other_content_is_reported_as_not_the_format(tmp_path, content, detail):
    message = refusal(write(tmp_path, content, 4))
    assert "no verification set" in message and detail in message


def test_images_that_are_not_two_a_pair_are_reported(tmp_path):
    assert "6 images for 2 pairs" in refusal(write(tmp_path, (IMAGES, [True, False])))
    assert "5 images for 3 pairs" in refusal(write(tmp_path, (IMAGES[:5], SAME)))
    assert "0 images for 3 pairs" in refusal(write(tmp_path, ([], SAME)))


def test_no_pairs_are_reported(tmp_path):
    assert "holds no pairs" in refusal(write(tmp_path, ([], [])))
    assert "holds no pairs" in refusal(write(tmp_path, (IMAGES, np.array([], bool))))


def test_pairs_of_one_kind_are_reported(tmp_path):
    assert "all 3 pairs show the same person" in refusal(write(tmp_path, (IMAGES, [True] * 3)))
    assert "all 3 pairs show different people" in refusal(write(tmp_path, (IMAGES, [0, 0, 0])))


def test_the_real_lfw_has_its_12000_images_and_6000_pairs(real_data):
    pairs = read_bin(real_data / "lfw.bin")
    assert pairs.name == "lfw" and len(pairs.images) == 12_000
    # LFW's 10 official folds are 300 pairs of one person, then 300 of two.
    assert pairs.same.reshape(20, 300).tolist() == [[fold % 2 == 0] * 300 for fold in range(20)]
    for number in (0, 5_999, 11_999):
        image = decode(pairs.images[number], f"lfw image {number}")
        assert image.shape == (3, 112, 112) and image.dtype == np.uint8 and image.std() > 10
