"""Batches are the same whatever the number of ranks and workers; bad images are left out and reported."""

import cv2
import numpy as np
import pytest

from arcface.data import loader, sampler
from arcface.data.augment import Augmentation
from arcface.data.datasets.label_list import LabelFile
from arcface.data.loader import PADDING, UNREADABLE, Loader
from arcface.errors import UserError
from arcface.io.images import batch_channels_first
from arcface.rng import Stream, rng

STRONG = Augmentation(0.5, 0.5, 0.5, 0.5)
SETTINGS = {
    "plain": {},
    "blocks": {"shuffle": "blocks"},
    "balanced": {"sampling": "balanced"},
    "augmented": {"augmentation": STRONG},
    "balanced and augmented": {"sampling": "balanced", "augmentation": STRONG},
}


@pytest.fixture(scope="module")
def dataset(make_data_set):
    return LabelFile(str(make_data_set(22, 3)))


def loaded(loader, first, last, workers):
    with loader.workers(workers) as processes:
        return [(images, labels) for images, labels, _ in loader.batches(first, last, processes, batch_channels_first)]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(sampler, "BLOCK", 4)
    monkeypatch.setattr(sampler, "WINDOW", 8)


def slow_epoch(dataset, batch_size, seed, epoch, shuffle="global", sampling="natural", augmentation=Augmentation()):
    """One epoch's global batches, an image after the other."""
    random, images = rng(Stream.ORDER, seed, epoch), len(dataset)
    if sampling == "balanced":
        indices = [int(index) for index in sampler.balanced(dataset.labels, random)]
    elif shuffle == "blocks":
        indices = [int(index) for index in sampler.blocks_shuffled(images, random)]
    else:
        indices = random.permutation(images).tolist()
    flips = (rng(Stream.FLIP, seed, epoch).random(images, np.float32) < 0.5).tolist()
    made = []
    for position, index in enumerate(indices):
        key = position if sampling == "balanced" else index
        image = cv2.imdecode(np.frombuffer(dataset.encoded(index), np.uint8), cv2.IMREAD_COLOR)
        if flips[key]:
            image = image[:, ::-1]
        image = augmentation(np.ascontiguousarray(image), rng(Stream.AUGMENTATION, seed, epoch, key))
        made.append((image[:, :, ::-1].transpose(2, 0, 1), int(dataset.labels[index])))
    batches = []
    while made[len(batches) * batch_size :]:
        part = made[len(batches) * batch_size :][:batch_size]
        padding = [(image, PADDING) for image, _ in made[: batch_size - len(part)]]
        batches.append((np.stack([image for image, _ in part + padding]), [label for _, label in part + padding]))
    return batches


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_batches_are_those_of_a_slow_loop_whatever_the_number_of_ranks_and_workers(dataset, small_blocks, setting, workers):
    setting = SETTINGS[setting]
    expected = [batch for epoch in range(2) for batch in slow_epoch(dataset, 12, 1, epoch, **setting)]
    assert len(expected) == 4
    for world_size in range(1, 5):
        ranks = [Loader(dataset, 12, 1, rank, world_size, **setting) for rank in range(world_size)]
        results = [loaded(batches, 0, 4, workers) for batches in ranks]
        for step, (images, labels) in enumerate(expected):
            ours, our_labels = (np.concatenate([result[step][part] for result in results]) for part in range(2))
            assert ours.dtype == np.uint8 and our_labels.dtype == np.int64
            assert np.array_equal(ours, images) and our_labels.tolist() == labels


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_and_where_a_run_starts_change_nothing(dataset, workers):
    batches = Loader(dataset, 8, seed=1, rank=0, world_size=1)
    results = loaded(batches, 2, 7, workers)
    assert len(results) == 5
    for step, (images, labels) in enumerate(results, 2):
        assert np.array_equal(images, batches[step][0]) and np.array_equal(labels, batches[step][1])


def test_an_image_that_turns_bad_is_left_out_of_the_loss_and_reported_by_name(make_data_set):
    directory = make_data_set(8, 2)
    dataset = LabelFile(str(directory))
    (directory / "images" / "00000005.jpg").write_bytes(b"damaged")
    batches = Loader(dataset, 8, 0, 0, 1)
    for step, (images, labels) in enumerate(loaded(batches, 0, 6, 1)):  # later ones are where others were before
        row = batches.draws(step).indices.tolist().index(5)
        assert labels[row] == UNREADABLE and (np.delete(labels, row) >= 0).all()
        assert not images[row].any() and np.delete(images, row, 0).any(axis=(1, 2, 3)).all()
    ((index, complaint),) = batches.complaints(step, labels).items()
    assert index == 5
    assert "label.txt line 6: images/00000005.jpg: not an image" in complaint


def test_a_global_batch_that_the_ranks_do_not_divide_is_refused(dataset):
    with pytest.raises(UserError, match="--batch_size 8 .* divisible by the 3 ranks; use 6"):
        Loader(dataset, 8, 0, 0, 3)


def test_blocks_of_balanced_classes_are_refused(dataset):
    with pytest.raises(UserError, match="--shuffle blocks and --sampling balanced: .* leave one of them out"):
        Loader(dataset, 8, 0, 0, 1, "blocks", "balanced")


def test_a_batch_stays_what_it_is_while_later_ones_come(dataset):
    batches = Loader(dataset, 8, 1, 0, 1)
    for step, (images, labels) in enumerate(loaded(batches, 0, 12, 2)):  # more than the workers have room for
        assert np.array_equal(images, batches[step][0]) and np.array_equal(labels, batches[step][1])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_rank_knows_the_labels_of_all_ranks_images_as_they_are_listed(workers, tmp_path, make_data_set):
    root = make_data_set(22, 3)
    (root / "images" / "00000003.jpg").write_bytes(b"no image")
    ranks = [Loader(LabelFile(str(root)), 8, 1, rank, 2) for rank in range(2)]
    batches = []
    for one in ranks:
        with one.workers(workers) as processes:
            batches.append(list(one.batches(0, 6, processes, batch_channels_first)))  # two epochs, the third batch padded
    seen = set()
    for (_, first, listed), (_, second, too) in zip(*batches, strict=True):
        assert np.array_equal(listed, too) and listed.dtype == np.int64
        labels = np.concatenate([first, second])
        seen.update(labels[labels < 0].tolist())
        assert (listed[labels >= 0] == labels[labels >= 0]).all() and (listed[labels == PADDING] == PADDING).all()
        assert (listed[labels == UNREADABLE] == 0).all()
    assert seen == {PADDING, UNREADABLE}


def test_workers_end_when_they_are_no_longer_needed(dataset, monkeypatch):
    started = []

    class Watched(loader.Workers):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.extend(self._processes)

    monkeypatch.setattr(loader, "Workers", Watched)
    batches = Loader(dataset, 8, 1, 0, 1)
    with batches.workers(2) as processes:
        for _ in batches.batches(0, 1000, processes, batch_channels_first):
            assert all(process.is_alive() for process in started)
            break
    assert len(started) == 2 and not any(process.is_alive() for process in started)


def test_without_fork_batches_are_made_when_they_are_asked_for(dataset, monkeypatch):
    monkeypatch.setattr(loader, "available", lambda: False)
    monkeypatch.setattr(loader, "Workers", None)
    batches = Loader(dataset, 8, 1, 0, 1)
    for step, (images, labels) in enumerate(loaded(batches, 0, 3, 2)):
        assert np.array_equal(images, batches[step][0]) and np.array_equal(labels, batches[step][1])


@pytest.mark.parametrize("batch_size, advice", [(4, 3), (2, 3), (11, 9)])
def test_a_batch_that_the_ranks_cannot_share_is_told_with_one_that_they_can(dataset, batch_size, advice):
    complaint = f"--batch_size {batch_size} is the global batch and must be divisible by the 3 ranks; use {advice}$"
    with pytest.raises(UserError, match=complaint):
        Loader(dataset, batch_size, 1, 0, 3)
