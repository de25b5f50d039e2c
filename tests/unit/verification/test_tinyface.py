"""TinyFace's layout is read, its rates by rank are those worked out by hand, and mistakes in it are named."""

import shutil

import cv2
import numpy as np
import pytest
from protocol_files import refusal
from tinyface_files import GALLERY, PROBES, write_mat, write_tinyface

from arcface.errors import UserError
from arcface.verification.tinyface import UNKNOWN, find_tinyface, identify, load_image, read_tinyface

# Each image is of one grey, which is an angle in degrees: the embedding below.
ANGLES = {"1_1.png": 0, "1_2.png": 40, "2_1.png": 90, "3_1.png": 150, "d1.png": 60, "below/d2.png": 200}
ANGLES |= {"1_3.png": 38, "2_2.png": 70, "3_2.png": 8}


def grey(name: str) -> bytes:
    return cv2.imencode(".png", np.full((20, 16, 3), ANGLES[name], np.uint8))[1].tobytes()


def embed(images: np.ndarray) -> np.ndarray:
    angles = np.radians(images[:, 0, 0, 0].astype(np.float32))
    return 5 * np.stack([np.cos(angles), np.sin(angles)], 1)


def test_a_small_set_gives_the_rates_worked_out_by_hand(tmp_path):
    protocol = read_tinyface(write_tinyface(tmp_path / "Testing_Set", grey), "tiny")
    found = identify(embed, protocol, 2)
    # 38 is nearest to 40, its mate. 70 is nearest to 60, a distractor, and then to 90, its mate. 8 has 0, 40, 60 and 90 before its
    # mate at 150; 200 is farther. The places are 1, 2 and 5.
    assert found.rates == {1: pytest.approx(1 / 3), 5: 1.0, 20: 1.0} and found.points == []


def test_images_are_gallery_then_distractors_then_probes(tmp_path):
    directory = write_tinyface(tmp_path / "a")
    (directory / "Gallery_Distractor" / "notes.txt").touch()
    protocol = read_tinyface(directory, "tiny")
    expected = [f"Gallery_Match/{name}" for name in GALLERY]
    expected += ["Gallery_Distractor/below/d2.png", "Gallery_Distractor/d1.png"] + [f"Probe/{name}" for name in PROBES]
    assert [image.relative_to(directory).as_posix() for image in protocol.images] == expected
    assert protocol.identities.tolist() == [*GALLERY.values(), UNKNOWN, UNKNOWN, *PROBES.values()] and protocol.probes == 3
    assert protocol.kind == f"{directory} has TinyFace's layout: 3 probes, 6 images searched, 2 of them distractors"


def test_the_folders_are_found_in_the_directory_or_in_its_testing_set(tmp_path):
    write_tinyface(tmp_path / "tinyface" / "Testing_Set")
    assert find_tinyface(tmp_path / "tinyface") == find_tinyface(tmp_path / "tinyface" / "Testing_Set")
    assert find_tinyface(tmp_path) is None


def test_an_image_of_another_size_is_scaled_and_a_crop_is_left_as_it_is(tmp_path):
    crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "crop.png"), crop)
    cv2.imwrite(str(tmp_path / "small.png"), crop[:20, :16])
    assert (load_image(tmp_path / "crop.png") == crop.transpose(2, 0, 1)[::-1]).all()
    assert load_image(tmp_path / "small.png").shape == (3, 112, 112)


MAT = "probe_img_ID_pairs.mat"


def remove(name):
    def change(directory):
        shutil.rmtree(directory / name) if (directory / name).is_dir() else (directory / name).unlink()

    return change


def listed(**probes):
    return lambda directory: write_mat(directory / MAT, "probe", {f"{name}.png": identity for name, identity in probes.items()})


@pytest.mark.parametrize(
    "change, complaint",
    [
        (remove(MAT), f"{MAT}: No such file or directory; restore the file"),
        (remove("Gallery_Distractor"), "Gallery_Distractor: No such file or directory; restore the folder"),
        (remove("Probe/2_2.png"), f"Probe/2_2.png: no such file, but {MAT} lists it (1 of 3 images are missing); restore"),
        (listed(**{"../1": 1}), "Probe/../1.png: no such file"),
        (listed(**{"1_3": 9}), "no probe is of an identity in the gallery; restore"),
        (lambda directory: (directory / MAT).write_bytes(b"?" * 200), f"{MAT}: damaged, or not a .mat file"),
    ],
)
def test_a_mistake_is_named(tmp_path, change, complaint):
    directory = write_tinyface(tmp_path / "a")
    change(directory)
    assert complaint in refusal(read_tinyface, directory, "tiny")


def test_an_image_that_cannot_be_decoded_and_embeddings_that_are_not_finite_are_named(tmp_path):
    protocol = read_tinyface(write_tinyface(tmp_path / "a"), "tiny")
    with pytest.raises(UserError, match="1_1.png: not an image that OpenCV can decode"):
        load_image(protocol.images[0])
    protocol = read_tinyface(write_tinyface(tmp_path / "b", grey), "tiny")
    assert "tiny: the backbone's embeddings are not finite" in refusal(identify, lambda images: embed(images) * np.nan, protocol, 4)
