"""What a name in --val_targets means, in which order, and that a list of pairs is the .bin that is packed of it."""

from pathlib import Path

import numpy as np
import pytest
from fake_embedding import embed
from identity_folders import write_folder
from protocol_files import refusal, write
from tinyface_files import write_tinyface

from arcface.config import ListedPairs, ValidConfig, VerificationOptions
from arcface.data.bin_file import read_bin, write_bin
from arcface.data.verification_set import VerificationSet
from arcface.errors import UserError
from arcface.verification.evaluator import check_images, verify
from arcface.verification.pack_bin import PackOptions, pack_bin
from arcface.verification.sets import read_pair_sets, read_sets
from arcface.verification.verifier import Verifier


@pytest.fixture(scope="module")
def images(make_data_set):
    return make_data_set(24, 3) / "images"


def options(directory, targets: str) -> ValidConfig:
    return ValidConfig(val_dir=str(directory), val_targets=targets, template_detector_score=0)


def kind(directory, targets: str) -> str:
    (one,) = read_sets(options(directory, targets), options(directory, targets))
    return one.kind


def test_the_first_kind_that_fits_counts(tmp_path):
    write_folder(tmp_path / "x", {name: 2 for name in "abcdef"})
    assert "is a folder of 6 identities" in kind(tmp_path, "x")
    write_tinyface(tmp_path / "tiny")
    for part in (tmp_path / "tiny").iterdir():
        part.rename(tmp_path / "x" / part.name)
    assert "has TinyFace's layout" in kind(tmp_path, "x") and "has TinyFace's layout" in kind(tmp_path, "x/")
    protocol = write(tmp_path)
    (protocol / "meta").rename(tmp_path / "x" / "meta")
    (protocol / "images").rename(tmp_path / "x" / "images")
    assert "is an IJB-style protocol" in kind(tmp_path, "x")
    write_bin(tmp_path / "x.bin", [b"1", b"2", b"3", b"4"], [True, False])
    assert kind(tmp_path, "x") == ""


def test_a_list_and_its_folder_are_named_after_the_folder_and_names_are_unique(tmp_path):
    two = VerificationOptions(val_dir=str(tmp_path), val_targets="a, lists/pairs.txt = /b/photos/ ")
    assert two.val_files == [tmp_path / "a.bin", ListedPairs(tmp_path / "lists" / "pairs.txt", Path("/b/photos"))]
    with pytest.raises(UserError, match="several sets are named photos; rename one"):
        assert VerificationOptions(val_targets="pairs.txt=a/photos,photos").val_files
    for wrong in ("=photos", "pairs.txt=", " = "):
        with pytest.raises(UserError, match="is not LIST=FOLDER, as in pairs.txt=photos; name both"):
            assert VerificationOptions(val_targets=wrong).val_files


def test_a_name_with_an_equals_sign_that_exists_is_no_list(tmp_path):
    write_folder(tmp_path / "run=3" / "people", {name: 2 for name in "abcd"})
    write_bin(tmp_path / "a=b.bin", [b"1", b"2", b"3", b"4"], [True, False])
    assert "is a folder" in kind(tmp_path, "run=3/people") and kind(tmp_path, "a=b") == ""


@pytest.mark.parametrize("lfw", [False, True])
def test_a_list_of_pairs_gives_the_figures_of_the_bin_that_is_packed_of_it(tmp_path, images, lfw):
    files = sorted(images.iterdir())
    if lfw:
        for number, file in enumerate(files):
            name = f"p{number // 4}"
            (tmp_path / "crops" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "crops" / name / f"{name}_{number % 4 + 1:04d}.jpg").write_bytes(file.read_bytes())
        same = [f"p{number}\t1\t{other}" for number in range(6) for other in (2, 3)]
        lines = ["12", *same, *(f"p{number}\t1\tp{(number + 1) % 6}\t{other}" for number in range(6) for other in (1, 4))]
    else:
        (tmp_path / "crops").symlink_to(images)
        lines = [f"{files[n].name}\t{files[(7 * n + 3) % 24].name}\t{n % 2}" for n in range(24)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    pack_bin(PackOptions(images=str(tmp_path / "crops"), pairs=str(tmp_path / "pairs.txt"), output=str(tmp_path / "packed.bin")))
    (listed,) = read_pair_sets(options(tmp_path, "pairs.txt=crops"))
    packed = read_bin(tmp_path / "packed.bin")
    assert listed.name == "crops" and [listed.encoded(position) for position in range(len(listed.images))] == packed.images
    check_images(listed)
    ours, theirs = verify(embed, listed, 4), verify(embed, packed, 4)
    assert ours.xnorm == theirs.xnorm and (ours.similarities == theirs.similarities).all()
    assert ours.accuracy.accuracies.tolist() == theirs.accuracy.accuracies.tolist() and ours.accuracy.mean == theirs.accuracy.mean


def test_a_folder_is_judged_in_its_own_folds_and_each_image_is_read_once(tmp_path, images, monkeypatch):
    for number, file in enumerate(sorted(images.iterdir())):
        (tmp_path / "people" / f"p{number // 4}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "people" / f"p{number // 4}" / file.name).write_bytes(file.read_bytes())
    (pairs,) = read_pair_sets(options(tmp_path, "people"))
    read = []

    def encoded(self, position):
        read.append(self.images[position])
        return self.images[position].read_bytes()

    monkeypatch.setattr(VerificationSet, "encoded", encoded)
    result = verify(embed, pairs, 5)
    assert pairs.folds == 3 and len(result.accuracy.accuracies) == 3
    assert sorted(read) == sorted(set(pairs.images))
    # By slow obvious code: one fold after another, its threshold the best on the other two.
    unit = {}
    for image in set(pairs.images):
        crop = pairs.crop(pairs.images.index(image))
        both = embed(np.stack([crop, crop[:, :, ::-1]])).sum(axis=0, dtype=np.float64)
        unit[image] = both / np.linalg.norm(both)
    distances = [((unit[a] - unit[b]) ** 2).sum() for a, b in zip(pairs.images[::2], pairs.images[1::2], strict=True)]
    judged = [(d, bool(same)) for d, same in zip(distances, pairs.is_same, strict=True)]
    is_right = np.array([[(d < t) == same for t in np.arange(0, 4, 0.01)] for d, same in judged])
    size = len(distances) // 3
    for fold in range(3):
        mine = np.arange(len(distances)) // size == fold
        best = np.argmax(is_right[~mine].sum(axis=0))
        assert result.accuracy.accuracies[fold] == is_right[mine, best].mean()


@pytest.mark.parametrize("target", ["x", "tiny"])
def test_training_refuses_protocols_before_it_reads_them(tmp_path, target):
    (tmp_path / "x" / "meta").mkdir(parents=True)
    write_tinyface(tmp_path / "tiny" / "Testing_Set")
    message = refusal(read_pair_sets, options(tmp_path, target))
    assert f"{tmp_path / target} is a protocol, which only valid.py verifies; leave it out of --val_targets" in message


def test_a_list_that_is_missing_may_be_done_without_but_not_its_images(tmp_path):
    assert "without verification: --val_targets ''" in refusal(read_pair_sets, options(tmp_path, "pairs.txt=crops"))
    (tmp_path / "pairs.txt").write_text("a\tb\t1\nc\td\t0\n")
    assert refusal(read_pair_sets, options(tmp_path, "pairs.txt=crops")) == (
        f"{tmp_path / 'crops'}: no such directory; correct --val_targets LIST=FOLDER"
    )
    (tmp_path / "crops").mkdir()
    message = refusal(read_pair_sets, options(tmp_path, "pairs.txt=crops"))
    assert "pairs.txt line 1: a: no such file in" in message and message.endswith("restore the files, or remove their lines")
    assert "4 of 4 images are missing" in message and "--skip_missing" not in message


@pytest.mark.usefixtures("tiny")
def test_training_says_once_what_its_sets_are(tmp_path, images, monkeypatch):
    import paddle

    from arcface.backbones import create_backbone
    from arcface.config import NetworkOptions
    from arcface.io.log import logger

    lines = [f"{n:08d}.jpg\t{n + 1:08d}.jpg\t{n % 2}" for n in range(6)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    paddle.seed(0)
    config = VerificationOptions(val_dir=str(tmp_path), val_targets=f"pairs.txt={images}", engine="paddle")
    ours = Verifier(read_pair_sets(config), config, NetworkOptions(network="Tiny", embedding_size=8), 10)
    backbone = create_backbone("Tiny", 8)
    said = []
    monkeypatch.setattr(logger, "info", said.append)
    assert [len(list(ours.run(backbone))) for _ in range(2)] == [1, 1]
    assert said == [f"images: {tmp_path / 'pairs.txt'} lists 3 pairs of one identity and 3 of two in {images}"]
