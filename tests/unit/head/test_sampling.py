"""A step uses the classes of the batch, and random negatives that depend on seed and step only."""

import numpy as np
import pytest

from arcface.head.sampling import sample_classes
from arcface.head.shards import Shard, shard_of


def test_about_the_share_is_sampled_and_every_class_as_often():
    labels = np.arange(1000)
    drawn = np.zeros(20000)
    for step in range(100):
        sampled = sample_classes(labels, 20000, Shard(0, 20000), 0.1, 0, step)
        assert len(sampled) == pytest.approx(2000, abs=150)  # 1000 and 5 standard deviations of a binomial variable
        drawn[sampled] += 1
    assert (drawn[:1000] == 100).all()
    assert drawn[1000:].mean() == pytest.approx(100 * 1000 / 19000, rel=0.02) and drawn[1000:].max() < 25


def test_negatives_change_with_the_step_and_repeat_with_the_seed():
    def sampled(seed, step):
        return tuple(sample_classes(np.array([3, 500, -1]), 1000, Shard(0, 1000), 0.1, seed, step))

    assert sampled(0, 0) == sampled(0, 0)
    assert len({sampled(0, 0), sampled(0, 1), sampled(1, 0)}) == 3


@pytest.mark.parametrize("sample_rate", [0.001, 0.1, 0.7])
def test_shards_divide_the_classes_that_one_rank_samples(sample_rate):
    labels = np.array([0, 7, 7, -1, 999])
    whole = sample_classes(labels, 1000, Shard(0, 1000), sample_rate, 5, 2)
    assert np.isin([0, 7, 999], whole).all() and (np.diff(whole) > 0).all()
    for rank in range(3):
        shard = shard_of(1000, rank, 3)
        sampled = sample_classes(labels, 1000, shard, sample_rate, 5, 2)
        expected = whole[(whole >= shard.start) & (whole < shard.stop)] - shard.start
        assert np.array_equal(sampled, expected) or not len(expected) and len(sampled) == 1 and 0 <= sampled[0] < shard.size
