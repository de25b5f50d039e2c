"""Training with the CPU kernels is training with Paddle's layers."""

import numpy as np
import paddle
import pytest

from arcface.config import TrainConfig
from arcface.ops.build import load_library
from arcface.training import model as model_module
from arcface.training.data import Batch
from arcface.training.model import Model

STEPS, BATCH_SIZE, CLASSES = 8, 8, 5
RATE = 5e-5  # the first activation that rounding puts on the other side of PReLU's kink is blown up by large steps


def trained(cpu_kernels: str) -> tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Losses, and the backbone's arrays before and after."""
    config = TrainConfig(cpu_kernels=cpu_kernels)
    model = Model(config, config, config, CLASSES)
    model.use_cpu_kernels()
    before = {name: tensor.numpy().copy() for name, tensor in model.backbone.state_dict().items()}
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (CLASSES, 3, 112, 112))
    losses = []
    for step in range(STEPS):
        labels = rng.integers(0, CLASSES, BATCH_SIZE)
        images = np.clip(pool[labels] + rng.integers(-60, 60, (BATCH_SIZE, 3, 112, 112)), 0, 255).astype(np.uint8)
        batch = Batch(paddle.to_tensor(images), paddle.to_tensor(labels, "int64"), labels)
        computed = model.backward(model.forward(batch, step))
        model.update(computed, RATE)
        losses.append(computed.loss.item())
    return losses, before, {name: tensor.numpy() for name, tensor in model.backbone.state_dict().items()}


def test_some_steps_end_where_paddle_s_layers_end():
    if load_library() is None:
        pytest.skip("no C++ compiler: the kernels cannot be built")
    plain, before, expected = trained("off")
    fast, before_too, actual = trained("auto")
    assert all(np.array_equal(before[name], before_too[name]) for name in before)
    assert plain[-1] < 0.75 * plain[0]
    assert fast == pytest.approx(plain, rel=2e-3)
    assert expected.keys() == actual.keys()
    for name in expected:
        assert np.abs(actual[name] - expected[name]).max() <= 5e-3 * max(np.abs(expected[name]).max(), 0.01), name
    # Of the way that the weights have gone; a single gradient in float32 differs by half a percent from one in float64.
    assert norm(actual, expected) <= 0.05 * norm(before, expected)


@pytest.mark.parametrize("precision, fused", [("float32", True), ("bf16", False)])
def test_the_backbone_s_kernels_compute_in_float32_only(tiny, monkeypatch, precision, fused):
    library = object()
    monkeypatch.setattr(model_module, "load_library", lambda: library)
    config = TrainConfig(network="Tiny", precision=precision, precision_emulation=1)
    model = Model(config, config, config, CLASSES)
    model.use_cpu_kernels()
    assert (model.backbone.block.library is library) == fused and model.head.library is library


def norm(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The distance of all weights together, without the statistics of batch norm."""
    return np.sqrt(sum(np.square(one[name] - other[name], dtype=np.float64).sum() for name in one if name.endswith("weight")))
