"""--freeze: stages that a run leaves as they are."""

import numpy as np
import paddle
import pytest
from backbone_params import families

from arcface.backbones import create_backbone
from arcface.backbones.stages import freeze, stage_of, stages
from arcface.config import TrainConfig
from arcface.errors import UserError
from arcface.inference.engines import open_engine
from arcface.training.data import Batch
from arcface.training.model import Model

CLASSES = 5
LISTED = np.arange(CLASSES)


def batch() -> Batch:
    colours = np.random.default_rng(0).integers(0, 256, (CLASSES, 3, 4, 4), np.uint8)
    images = colours.repeat(28, 2).repeat(28, 3)
    return Batch(paddle.to_tensor(images), paddle.to_tensor(LISTED), LISTED)


def model_of(network: str = "Tiny", **options) -> Model:
    config = TrainConfig(network=network, embedding_size=16, cpu_kernels="off", **options)
    return Model(config, config, config, CLASSES)


def train(model: Model, steps: int = 2) -> list[float]:
    losses = []
    for step in range(steps):
        computed = model.backward(model.forward(batch(), step))
        assert model.is_finite(computed).item()
        model.update(computed, 0.05)
        losses.append(computed.loss.item())
    return losses


def arrays(model: Model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.backbone.state_dict().items()}


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("name", families())
def test_the_first_stages_of_a_network_are_left_alone_and_no_gradient_reaches_them(name):
    backbone = create_backbone(name, 16)
    known = stages(backbone)
    names = list(known)[:2]
    frozen = freeze(backbone, names)
    before = {key: tensor.numpy().copy() for key, tensor in backbone.state_dict().items()}
    backbone(paddle.rand([2, 3, 112, 112])).sum().backward()
    assert {stage_of(key, known) for key in frozen} == set(names)
    assert changed(before, {key: tensor.numpy() for key, tensor in backbone.state_dict().items()}).isdisjoint(frozen)
    gradients = {key: parameter.grad for key, parameter in backbone.named_parameters()}
    assert all(gradients[key] is None for key in gradients if key in frozen)
    assert all(gradients[key] is not None for key, parameter in backbone.named_parameters() if not parameter.stop_gradient)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batch_norm", ["local", "sync", "frozen"])
def test_what_is_frozen_stays_and_the_rest_is_trained(tiny, batch_norm, optimizer):
    model = model_of(freeze="block", batch_norm=batch_norm, optimizer=optimizer, weight_decay=0.1)
    before = arrays(model)
    train(model)
    assert changed(before, arrays(model)) == {"linear.weight", "linear.bias"}
    assert all(of_each.keys() == {"linear.weight", "linear.bias"} for of_each in model.state().averages.values())


def test_a_frozen_stage_behind_one_that_is_trained_passes_the_gradient_on(tiny):
    plain, frozen = model_of(batch_norm="frozen"), model_of(freeze="linear", batch_norm="frozen")
    frozen.backbone.set_state_dict(plain.backbone.state_dict())
    gradients = []
    for model in (plain, frozen):
        computed = model.backward(model.forward(batch(), 0))
        gradients.append(model._weights.parts(computed.gradient)["block.conv.weight"].numpy())
    assert np.array_equal(*gradients) and gradients[0].any()


def test_with_all_of_the_backbone_frozen_the_head_alone_learns(tiny):
    model = model_of(freeze="backbone", clip_norm=1.0, scale=16.0, head_lr_scale=10.0)
    before = arrays(model)
    losses = train(model, 30)
    assert changed(before, arrays(model)) == set() and losses[-1] < 0.5 * losses[0]
    assert model.trained_of == (0, 8 * 3 * 7 * 7 + 3 * 8 + 128 * 16 + 16) and model.state().averages == {"momentum": {}}


def test_verification_leaves_frozen_stages_frozen(tiny):
    model = model_of(freeze="block")
    with open_engine("paddle", model.backbone, "Tiny", 16) as embed:
        embed(batch().images.numpy())
    before = arrays(model)
    train(model)
    assert changed(before, arrays(model)) == {"linear.weight", "linear.bias"} and model.backbone.training


def test_what_was_frozen_starts_from_0_when_it_is_trained(tiny):
    first = model_of(freeze="block")
    train(first)
    second = model_of()
    assert second.load(first.state(), "here") == ["the momentum of 4 of 6 trained tensors"]
    momentum = second.state().averages["momentum"]
    assert {name for name, array in momentum.items() if array.any()} == {"linear.weight", "linear.bias"}
    train(second)
    third = model_of(freeze="linear")
    assert third.load(second.state(), "here") == []  # it takes what it needs


def test_a_stage_that_does_not_exist_is_told_with_those_that_do(tiny):
    with pytest.raises(UserError, match="--freeze stem: .* block, linear, or backbone for all"):
        model_of(freeze="stem")


@pytest.mark.parametrize("scale, decay, used", [(0.5, None, 0.1), (2.0, 0.3, 0.3)])
def test_the_head_has_its_own_rate_and_weight_decay(tiny, monkeypatch, scale, decay, used):
    model, seen = model_of(head_lr_scale=scale, head_weight_decay=decay, weight_decay=0.1), []
    real = model.head.update
    monkeypatch.setattr(model.head, "update", lambda *how: seen.append(how) or real(*how))
    train(model, 1)
    assert [how[:3] for how in seen] == [(0.05 * scale, 0.9, used)]


@pytest.mark.parametrize(
    "frozen", ["stem,stage1", *(pytest.param(names, marks=pytest.mark.exhaustive) for names in ("stage2", "backbone"))]
)
def test_blocks_that_are_computed_again_and_an_average_keep_what_is_frozen(frozen):
    ends, options = [], {"freeze": frozen, "ema": 0.5, "batch_norm": "frozen"}
    for recompute in (0, 1):
        model = model_of("MobileFaceNet_128", recompute=recompute, **options)
        before = arrays(model)
        train(model, 2)
        ends.append(arrays(model))
        average = model.state().averages["ema"]
        stage = stages(model.backbone)
        names = list(stage) if frozen == "backbone" else frozen.split(",")
        kept = [name for name in before if stage_of(name, stage) in names]
        assert kept and all(np.array_equal(before[name], then[name]) for name in kept for then in (ends[-1], average))
        assert all((average[name] != before[name]).any() for name in before if "conv.weight" in name and name not in kept)
    assert changed(*ends) == set()
