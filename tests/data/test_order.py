"""The order of images is a pure function of (seed, epoch)."""

import numpy as np
import pytest

from arcface.data.order import EpochOrder, steps_per_epoch


def whole_epoch(images, batch_size, seed, epoch):
    order = EpochOrder(images, batch_size, seed, epoch)
    batches = [order.batch(step) for step in range(steps_per_epoch(images, batch_size))]
    return [np.concatenate(parts) for parts in zip(*batches)]


@pytest.mark.parametrize("images, batch_size", [(64, 8), (65, 8), (71, 8), (3, 8), (1, 4)])
def test_every_image_comes_once_an_epoch_and_the_rest_of_the_last_batch_is_marked_as_padding(images, batch_size):
    indices, _, padding = whole_epoch(images, batch_size, 0, 0)
    assert len(indices) % batch_size == 0 and 0 <= len(indices) - images < batch_size
    assert sorted(indices[~padding]) == list(range(images))


def test_seed_and_epoch_alone_decide_the_order_and_the_flips():
    def epoch_of(*key):
        return tuple(np.concatenate(whole_epoch(500, 8, *key)[:2]))

    assert epoch_of(0, 0) == epoch_of(0, 0)
    assert len({epoch_of(0, 0), epoch_of(0, 1), epoch_of(1, 0)}) == 3


def test_an_image_s_flip_does_not_depend_on_the_batch_size():
    def flips(batch_size):
        indices, flipped, padding = whole_epoch(500, batch_size, 5, 2)
        return dict(zip(indices[~padding], flipped[~padding]))

    assert flips(8) == flips(50)
    assert 200 < sum(flips(8).values()) < 300
