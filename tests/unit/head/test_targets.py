"""Where a step's targets are, as the device is told."""

import numpy as np
import pytest

from arcface.head.shards import Shard
from arcface.head.targets import find_targets

LABELS = np.array([12, 3, -1, 10, 12, 19, 20])


@pytest.mark.parametrize("sampled", [None, np.array([0, 2, 5, 9])])
def test_each_target_of_the_shard_is_found_among_the_classes_in_use(sampled):
    targets = find_targets(LABELS, Shard(10, 20), sampled)
    classes = np.arange(10) if sampled is None else targets.sampled.numpy()
    rows, place, entries = (tensor.numpy() for tensor in (targets.rows, targets.place, targets.entries))
    assert rows.tolist() == [0, 3, 4, 5] and targets.owned.numpy().tolist() == [1, 0, 0, 1, 1, 1, 0]
    assert (10 + classes[place[rows]] == LABELS[rows]).all()
    logits = np.arange(len(classes) * len(LABELS)).reshape(len(classes), len(LABELS))
    assert np.array_equal(logits.reshape(-1)[entries], logits[place[rows], rows])
    assert (targets.sampled is None) == (sampled is None)
