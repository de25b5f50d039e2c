"""The evaluator gives what a plain loop over all pairs gives, whatever the batch size and the number of ranks."""

import pickle
from pathlib import Path

import fake_embedding
import numpy as np
import pytest

from arcface.data.bin_file import VerificationSet, read_bin
from arcface.errors import UserError
from arcface.io.images import decode
from arcface.verification.evaluator import check_images, verify

HELPERS = Path(__file__).parents[1] / "helpers"


def plain_verification(pairs: VerificationSet):
    """Every image of every pair embedded by itself, plain and mirrored; folds and thresholds in loops."""
    sums, norms = [], []
    for encoded in pairs.images:
        image = decode(encoded, "")
        views = [fake_embedding.embed(view[None])[0] for view in (image, image[:, :, ::-1])]
        norms += [np.linalg.norm(view) for view in views]
        sums.append(sum(views) / np.linalg.norm(sum(views)))
    distances = np.array([((a - b) ** 2).sum() for a, b in zip(sums[::2], sums[1::2])])
    accuracies = []
    for fold in np.array_split(np.arange(len(distances)), 10):
        others = np.setdiff1d(np.arange(len(distances)), fold)
        best = max(np.arange(0, 4, 0.01), key=lambda t: ((distances[others] < t) == pairs.is_same[others]).sum())
        accuracies.append(((distances[fold] < best) == pairs.is_same[fold]).mean())
    return np.mean(norms), np.mean(accuracies), np.std(accuracies)


@pytest.fixture(scope="module")
def pairs(make_data_set):
    """31 pairs of 9 different images: neither divisible by batch sizes and ranks, nor without repetition."""
    directory = make_data_set(9, 3)
    images = [(directory / "images" / f"{index:08d}.jpg").read_bytes() for index in range(9)]
    draw = np.random.default_rng(0)
    chosen = draw.integers(0, 9, 62)
    return VerificationSet("tiny", [images[index] for index in chosen], draw.random(31) < 0.5)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_any_batch_size_gives_the_plain_loop_s_figures(pairs, batch_size):
    result = verify(fake_embedding.embed, pairs, batch_size)
    expected = plain_verification(pairs)
    assert (result.xnorm, result.accuracy.mean, result.accuracy.std) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_plain_loop_s_figures_on_each(pairs, run_ranks, tmp_path, ranks):
    (tmp_path / "tiny.bin").write_bytes(pickle.dumps((pairs.images, pairs.is_same.tolist())))
    run_ranks(ranks, HELPERS / "evaluator_worker.py", tmp_path)
    for rank in range(ranks):
        assert np.load(tmp_path / f"{rank}.npy") == pytest.approx(np.array(plain_verification(pairs)), rel=1e-6)


def test_each_distinct_image_is_embedded_once(pairs):
    count = 0

    def counting(images):
        nonlocal count
        count += len(images)
        return fake_embedding.embed(images)

    verify(counting, pairs, 4)
    assert count == 2 * len(set(pairs.images)) == 18


def test_an_undecodable_image_is_named_by_its_place_in_the_set(pairs):
    broken = VerificationSet("tiny", [*pairs.images[:50], b"no image", b"no image", *pairs.images[52:]], pairs.is_same)
    for examine in (check_images, lambda broken: verify(fake_embedding.embed, broken, 4)):
        with pytest.raises(UserError, match="tiny.bin image 50: not an image"):
            examine(broken)


def test_lfw_is_read_whole_and_verified_like_a_plain_loop_would(real_data):
    lfw = read_bin(real_data / "lfw.bin")
    assert len(lfw.images) == 12000 and len(set(lfw.images)) == 7701 and lfw.is_same.sum() == 3000
    part = VerificationSet("lfw", lfw.images[:1200], lfw.is_same[:600])
    result = verify(fake_embedding.embed, part, 64)
    assert (result.xnorm, result.accuracy.mean, result.accuracy.std) == pytest.approx(plain_verification(part), rel=1e-5)
