"""A step waits for the device as seldom as can be."""

import functools

import numpy as np
import paddle
import pytest

from arcface.config import TrainConfig
from arcface.training.model import Model
from arcface.training.signals import Signals

READS = ["numpy", "item", "tolist", "__array__", "__bool__", "__float__", "__int__", "__index__"]


@pytest.fixture
def reads(monkeypatch):
    """A list that grows by a name whenever the value of a tensor is read."""
    seen, depth = [], 0

    def counted(name, method):
        @functools.wraps(method)
        def call(*arguments, **more):
            nonlocal depth
            if depth == 0:  # these call one another
                seen.append(name)
            depth += 1
            try:
                return method(*arguments, **more)
            finally:
                depth -= 1

        return call

    for name in READS:
        monkeypatch.setattr(paddle.Tensor, name, counted(name, getattr(paddle.Tensor, name)))
    return seen


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, ["tolist"]),
        ({"on_nonfinite": "skip:1", "clip_norm": 1.0}, ["tolist"]),
        ({"sample_rate": 0.5}, ["numpy", "tolist"]),  # which classes are sampled depends on the labels
    ],
)
def test_a_step_reads_a_tensor_once_and_sampling_once_more(reads, options, expected):
    config = TrainConfig(cpu_kernels="off", **options)
    model = Model(config, config, config, 9, may_drop=config.on_nonfinite != "stop")
    images = paddle.to_tensor(np.random.default_rng(0).integers(0, 256, (4, 3, 112, 112), np.uint8))
    labels = paddle.to_tensor([0, 8, -1, 3], "int64")
    for step in range(2):
        reads.clear()
        loss = model.forward_backward(images, labels, step)
        assert not Signals().sync(model.is_nonfinite(loss), 0).nonfinite
        model.update(0.1)
        assert reads == expected
    paddle.ones([2]).sum().item(), bool(paddle.ones([1])), np.asarray(paddle.ones([2]))
    assert len(reads) == len(expected) + 3
