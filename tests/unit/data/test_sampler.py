"""The order of images is a pure function of (seed, epoch)."""

from collections import Counter

import numpy as np
import pytest

from arcface.data import sampler
from arcface.data.sampler import EpochSampler, balanced, blocks_shuffled, steps_per_epoch
from arcface.rng import Stream, rng

ORDERS = [("global", "natural"), ("blocks", "natural"), ("global", "balanced")]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(sampler, "BLOCK", 4)
    monkeypatch.setattr(sampler, "WINDOW", 12)


def labels_of(images, seed=0):
    """Labels of 7 identities, of whom one (number 5) has no images and one (number 0) has most."""
    identities = np.array([0, 0, 0, 0, 1, 2, 3, 4, 6])
    return np.sort(identities[np.random.default_rng(seed).integers(len(identities), size=images)])


def whole_epoch(images, batch_size, seed, epoch, *how):
    order = EpochSampler(labels_of(images), batch_size, seed, epoch, *how)
    batches = [order.batch(step) for step in range(steps_per_epoch(images, batch_size))]
    assert all(batch.epoch == epoch for batch in batches)
    return [np.concatenate(parts) for parts in zip(*(batch[1:] for batch in batches))]


@pytest.mark.parametrize("how", ORDERS[:2], ids=" ".join)
@pytest.mark.parametrize("images, batch_size", [(64, 8), (65, 8), (71, 8), (3, 8), (1, 4)])
def test_every_image_comes_once_an_epoch_and_the_rest_of_the_last_batch_is_marked_as_padding(small_blocks, images, batch_size, how):
    indices, _, padding, _ = whole_epoch(images, batch_size, 0, 0, *how)
    assert len(indices) % batch_size == 0 and 0 <= len(indices) - images < batch_size
    assert indices.dtype == np.int64 and sorted(indices[~padding]) == list(range(images))
    assert np.array_equal(indices[padding], np.resize(indices[~padding], padding.sum()))


@pytest.mark.parametrize("how", ORDERS, ids=" ".join)
def test_seed_and_epoch_alone_decide_the_order_and_the_flips(small_blocks, how):
    def epoch_of(*key):
        return tuple(np.concatenate(whole_epoch(500, 8, *key, *how)[:2]))

    assert epoch_of(0, 0) == epoch_of(0, 0)
    assert len({epoch_of(0, 0), epoch_of(0, 1), epoch_of(1, 0)}) == 3


def test_the_order_is_numpy_s_permutation_and_the_flips_are_drawn_by_index():
    """Runs of earlier versions go on with the order in which they began."""
    permutation = rng(Stream.ORDER, 3, 2).permutation(1000)
    flips = rng(Stream.FLIP, 3, 2).random(1000, np.float32) < 0.5
    indices, flipped, padding, keys = whole_epoch(1000, 8, 3, 2)
    assert np.array_equal(indices, permutation) and np.array_equal(flipped, flips[permutation])
    assert not padding.any() and np.array_equal(keys, indices)


def test_flips_drawn_in_parts_are_those_drawn_at_once(monkeypatch):
    whole = whole_epoch(1001, 8, 0, 0)[1]
    monkeypatch.setattr(sampler, "_FLIPS_AT_ONCE", 64)
    assert np.array_equal(whole_epoch(1001, 8, 0, 0)[1], whole)


@pytest.mark.parametrize("how", ORDERS, ids=" ".join)
def test_an_order_takes_little_more_than_four_bytes_a_row(how):
    order = EpochSampler(labels_of(100_000), 8, 0, 0, *how)
    held = sum(value.nbytes for value in vars(order).values() if isinstance(value, np.ndarray))
    assert held <= 4.2 * 100_000


@pytest.mark.parametrize("how", ORDERS, ids=" ".join)
def test_an_image_s_flip_does_not_depend_on_the_batch_size(how):
    def flips(batch_size):
        _, flipped, padding, keys = whole_epoch(500, batch_size, 5, 2, *how)
        return dict(zip(keys[~padding], flipped[~padding]))

    assert flips(8) == flips(50)
    assert 200 < sum(flips(8).values()) < 300


@pytest.mark.parametrize("images", [1, 4, 11, 12, 13, 500])
def test_shuffled_blocks_keep_neighbours_near_each_other(small_blocks, images):
    order = blocks_shuffled(images, np.random.default_rng(0)).tolist()
    assert sorted(order) == list(range(images))
    rows_before, touched = 0, []
    while rows_before < images:  # each window holds few blocks, of which only the first and the last may be cut
        blocks = Counter(index // 4 for index in order[rows_before : rows_before + 12])
        touched += blocks
        assert len(blocks) <= 5
        rows_before += 12
    assert all(count <= 2 for count in Counter(touched).values())
    if images == 500:
        following = sum(other == one + 1 for one, other in zip(order, order[1:]))
        far = sum(abs(one - other) > 12 for one, other in zip(order, order[1:]))
        assert following < 100 and far > 250


@pytest.mark.parametrize("images", [1, 7, 60, 501])
@pytest.mark.parametrize("seed", range(3))
def test_balanced_sampling_draws_classes_and_their_images_equally_often(images, seed):
    labels = labels_of(images, seed)
    drawn = balanced(labels, np.random.default_rng(seed))
    assert len(drawn) == images
    if images > 100:
        assert sum(one == other for one, other in zip(labels[drawn], labels[drawn][1:])) < images / 3  # by chance a sixth
    of_class = Counter(labels[drawn].tolist())
    assert of_class.keys() == set(labels.tolist()) and max(of_class.values()) - min(of_class.values()) <= 1
    of_image = Counter(drawn.tolist())
    for identity in of_class:
        counts = [of_image[index] for index in np.flatnonzero(labels == identity)]
        assert max(counts) - min(counts) <= 1


def test_balanced_sampling_draws_other_images_of_a_large_class_in_each_epoch():
    labels = np.repeat([0, 1], [90, 10])
    epochs = [set(EpochSampler(labels, 100, 0, epoch, sampling="balanced").batch(0).indices.tolist()) for epoch in range(12)]
    assert all(len([index for index in epoch if index < 90]) == 50 for epoch in epochs)
    assert set(range(90)) <= set.union(*epochs) and epochs[0] != epochs[1]


def test_an_image_drawn_several_times_is_not_always_flipped_alike():
    rows = EpochSampler(np.repeat([0, 1], [90, 10]), 100, 0, 0, sampling="balanced").batch(0)
    flips = {index: set(rows.flipped[rows.indices == index].tolist()) for index in range(90, 100)}
    assert {False, True} in flips.values() and len(set(rows.keys.tolist())) == 100
