"""Blocks that are computed again in the backward pass: the same bits of everything, and less that is saved."""

import numpy as np
import paddle
import pytest
from backbone_params import families

from arcface.backbones import BACKBONES
from arcface.backbones.recompute import recomputable_blocks
from arcface.config import TrainConfig
from arcface.training.data import Batch
from arcface.training.memory import estimate
from arcface.training.model import Model

IMAGES, CLASSES = 2, 5


def trained(network: str, steps: int, **options) -> dict[str, np.ndarray]:
    """Weights, statistics, momentum and loss after some steps, by name."""
    config = TrainConfig(network=network, embedding_size=32, batch_size=IMAGES, **options)
    model, losses = Model(config, config, config, CLASSES), []
    model.use_cpu_kernels()
    for step in range(steps):
        draw = np.random.default_rng(step)
        images, labels = draw.integers(0, 256, (IMAGES, 3, 112, 112), np.uint8), draw.integers(0, CLASSES, IMAGES)
        computed = model.backward(model.forward(Batch(paddle.to_tensor(images), paddle.to_tensor(labels), labels), step))
        model.update(computed, 0.01)
        losses.append(computed.loss.item())
    state = model.state()
    momentum = {f"momentum of {name}": array for name, array in state.averages["momentum"].items()}
    arrays = state.backbone | momentum | {"centres": state.centres, "losses": np.array(losses)}
    return {name: array.copy() for name, array in arrays.items()}


def differing(network: str, steps: int, **options) -> list[str]:
    kept, again = (trained(network, steps, recompute=on, **options) for on in (0, 1))
    assert kept.keys() == again.keys()
    return [name for name in kept if not np.array_equal(kept[name], again[name])]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cpu_kernels": "off"},
        {"batch_norm": "frozen"},
        {"batch_norm": "sync"},
        {"precision": "bf16", "precision_emulation": 1},
    ],
)
def test_a_block_that_is_computed_again_changes_no_bit(tiny, options):
    assert differing("Tiny", 3, accumulate=2, **options) == []


@pytest.mark.parametrize(
    "network, options",
    [
        ("MobileFaceNet_128", {}),
        pytest.param("iresnet18", {"batch_norm": "frozen"}, marks=pytest.mark.exhaustive),
        pytest.param("mbf", {"batch_norm": "sync"}, marks=pytest.mark.exhaustive),
        pytest.param("vit_t", {"precision": "bf16", "precision_emulation": 1}, marks=pytest.mark.exhaustive),
    ],
)
def test_a_backbone_whose_blocks_are_computed_again_ends_with_the_same_bits(network, options):
    assert differing(network, 2, **options) == []


@pytest.mark.parametrize("network", families())
def test_a_backbone_has_blocks_and_saves_less_with_them(network):
    assert len(list(recomputable_blocks(BACKBONES[network]()))) > 5
    config = {on: TrainConfig(network=network, batch_size=64, recompute=on) for on in (0, 1)}
    plain, again = (estimate(config[on], CLASSES, 1, "cpu").activations for on in (0, 1))
    assert again < 0.95 * plain


def test_evaluation_computes_nothing_again(tiny):
    config = TrainConfig(network="Tiny", recompute=1, cpu_kernels="off")
    model = Model(config, config, config, CLASSES)
    (block,) = recomputable_blocks(model.backbone)
    calls = []
    block.register_forward_pre_hook(lambda *_: calls.append("forward"))
    x = paddle.ones([2, 3, 112, 112])
    model.backbone(x).sum().backward()
    assert len(calls) == 2
    model.backbone.eval()
    model.backbone(x).sum().backward()
    with paddle.no_grad():
        model.backbone(x)
    assert len(calls) == 4
