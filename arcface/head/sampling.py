"""Which classes a step of Partial FC uses: those of the batch, and random negatives (An et al. 2021, arXiv:2010.05222)."""

import numpy as np

from arcface.head.shards import Shard
from arcface.rng import Stream, rng


def sample_classes(labels: np.ndarray, num_classes: int, shard: Shard, sample_rate: float, seed: int, step: int) -> np.ndarray:
    """Return the classes of `shard` that the step uses: int64, sorted, counted from the shard's start.

    labels: int64 [N] of all ranks, negative for none. All their classes are used, and random others up to about
    `sample_rate` of all classes; which ones depends on seed and step, not on the number of ranks. A shard from which
    none would come gives one.
    """
    positives = np.unique(labels[labels >= 0])
    negatives = num_classes - len(positives)
    share = max(0.0, sample_rate * num_classes - len(positives)) / negatives if negatives else 0.0
    # A number for each class from 0 on, so that every rank sees the same numbers.
    chance = rng(Stream.NEGATIVE_CLASSES, seed, step).random(shard.stop, np.float32)
    chance[positives[positives < shard.stop]] = -1
    chance = chance[shard.start :]
    sampled = np.flatnonzero(chance < share)
    return sampled if sampled.size else np.array([chance.argmin()])
