"""Sums and update over blocks of classes are those over all classes at once."""

import numpy as np
import paddle
import pytest

from arcface.head import block_softmax
from arcface.head.block_softmax import BlockSoftmax, blocks
from arcface.head.shards import Shard
from arcface.head.targets import find_targets
from arcface.ops.build import load_library

CLASSES, N, SIZE, LR, MOMENTUM, WEIGHT_DECAY = 11, 6, 5, 0.1, 0.9, 1e-3


@pytest.fixture(params=["paddle", "kernels"])
def library(request):
    if request.param == "kernels":
        return load_library() or pytest.skip("no C++ compiler: the kernels cannot be built")


@pytest.mark.parametrize("scale", [16.0, 100.0])
@pytest.mark.parametrize("sampled", [None, [0, 2, 3, 4, 7, 8, 10]])
def test_sums_and_update_equal_the_formula(monkeypatch, library, sampled, scale):
    monkeypatch.setitem(block_softmax.CLASSES_PER_BLOCK, "cpu", 3)
    rng = np.random.default_rng(0)
    weight, velocity = rng.normal(size=(2, CLASSES, SIZE))
    x, p_x = rng.normal(size=(2, N, SIZE))
    x *= scale / np.linalg.norm(x, axis=1, keepdims=True)
    target = np.array([0, 6, -1, 2, 3, -1])
    used = np.arange(CLASSES) if sampled is None else np.array(sampled)

    unit = weight[used] / np.linalg.norm(weight[used], axis=1, keepdims=True)
    e = np.exp(x @ unit.T)
    for image, place in enumerate(target):
        if place >= 0:
            e[image, place] = 0
    w, v = (paddle.to_tensor(array, "float32") for array in (weight, velocity))
    labels = np.where(target >= 0, used[target], -1)
    targets = find_targets(labels, Shard(0, CLASSES), None if sampled is None else used)
    in_use = w if sampled is None else paddle.gather(w, targets.sampled)
    softmax = BlockSoftmax(in_use, targets, scale, library)
    S, W = softmax.sums(paddle.to_tensor(x, "float32"))
    if scale > 64:
        assert softmax.shift.shape == [N, 1] and softmax.shift.numpy().any()
        e *= np.exp(-softmax.shift.numpy().astype(np.float64))
    else:
        assert softmax.shift is None
    assert S.numpy() == pytest.approx(e.sum(1, keepdims=True), rel=1e-4)
    assert W.numpy() == pytest.approx(e @ unit, rel=1e-4, abs=1e-4 * np.abs(e @ unit).max())

    softmax.update(paddle.to_tensor(p_x, "float32"), w, v, LR, MOMENTUM, WEIGHT_DECAY)
    gradient = e.T @ p_x
    across = gradient - (gradient * unit).sum(1, keepdims=True) * unit
    across /= np.linalg.norm(weight[used], axis=1, keepdims=True)
    velocity[used] = MOMENTUM * velocity[used] + across + WEIGHT_DECAY * weight[used]
    weight[used] -= LR * velocity[used]
    assert v.numpy() == pytest.approx(velocity, rel=1e-4, abs=1e-4 * np.abs(velocity).max())
    assert w.numpy() == pytest.approx(weight, rel=1e-4, abs=1e-4 * np.abs(weight).max())


def test_blocks_cover_all_classes_once():
    size = block_softmax.classes_per_block("cpu")
    for classes in (1, size, size + 1, 3 * size):
        numbers = np.concatenate([np.arange(block.start, block.stop) for block in blocks(classes)])
        assert np.array_equal(numbers, np.arange(classes))
