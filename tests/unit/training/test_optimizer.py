"""Optimizers: AdamW is Paddle's, also for a parameter that is trained later than others."""

import numpy as np
import paddle
import pytest

from arcface.config import OptimizerOptions
from arcface.training.flat import Flat
from arcface.training.optimizer import AdamW, MomentumSGD

SHAPES = {"a": [3, 5], "b": [64], "c": [7]}
OPTIONS = OptimizerOptions(optimizer="adamw", momentum=0.8, adam_beta2=0.95, weight_decay=0.1)
RATES = [0.1, 0.2, 0.3, 0.2, 0.1]


def weights() -> dict[str, paddle.Tensor]:
    rng = np.random.default_rng(0)
    return {name: paddle.to_tensor(rng.normal(size=shape).astype(np.float32)) for name, shape in SHAPES.items()}


def gradients(step: int, scale: float = 1e-3) -> dict[str, paddle.Tensor]:
    rng = np.random.default_rng(step + 1)
    return {name: paddle.to_tensor(rng.normal(scale=scale, size=shape).astype(np.float32)) for name, shape in SHAPES.items()}


def of_paddle(steps_of: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """The weights after Paddle's AdamW has taken some steps with each of them."""
    result = {}
    for name, steps in steps_of.items():
        weight = paddle.create_parameter(SHAPES[name], "float32")
        weight.set_value(weights()[name])
        theirs = paddle.optimizer.AdamW(0.0, 0.8, 0.95, 1e-8, parameters=[weight], weight_decay=0.1)
        for step in steps:
            theirs.set_lr(RATES[step])
            (weight * gradients(step)[name]).sum().backward()
            theirs.step()
            theirs.clear_grad()
        result[name] = weight.numpy()
    return result


def take(optimizer, flat: Flat, step: int, finite: bool | None = None) -> None:
    gradient = flat.gather({name: gradients(step)[name] * (np.nan if finite is False else 1) for name in flat.tensors})
    optimizer.step(gradient, RATES[step], None if finite is None else paddle.to_tensor([finite]))


def assert_close(found: dict[str, paddle.Tensor], expected: dict[str, np.ndarray]) -> None:
    for name, tensor in found.items():
        moved = np.abs(expected[name] - weights()[name].numpy()).max()
        assert np.abs(tensor.numpy() - expected[name]).max() <= 2e-5 * moved, name


@pytest.mark.parametrize("masked", [False, True])
def test_five_steps_of_adamw_are_paddle_s_and_a_step_that_is_not_finite_does_not_count(masked):
    flat = Flat(weights())
    optimizer = AdamW(OPTIONS, flat)
    for step in range(5):
        if masked:
            take(optimizer, flat, step, finite=False)
        take(optimizer, flat, step, finite=True if masked else None)
    assert_close(flat.tensors, of_paddle(dict.fromkeys(SHAPES, range(5))))


def test_a_parameter_that_is_trained_later_starts_with_its_own_first_step():
    flat = Flat({name: tensor for name, tensor in weights().items() if name != "b"})
    frozen_first = AdamW(OPTIONS, flat)
    for step in (0, 1):
        take(frozen_first, flat, step)
    saved = frozen_first.state()
    assert {name: array.tolist() for name, array in saved["steps"].items()} == {"a": [2], "c": [2]}

    flat = Flat(weights() | {name: tensor.clone() for name, tensor in flat.tensors.items()})
    optimizer = AdamW(OPTIONS, flat)
    assert optimizer.load(saved) == "AdamW's moments of 1 of 3 trained tensors"
    for step in (2, 3, 4):
        take(optimizer, flat, step)
    assert_close(flat.tensors, of_paddle({"a": [0, 1, 2, 3, 4], "b": [2, 3, 4], "c": [0, 1, 2, 3, 4]}))
    resumed = AdamW(OPTIONS, flat)
    assert resumed.load(optimizer.state()) is None and resumed.state()["steps"]["b"] == [3]


@pytest.mark.parametrize("first, second", [(MomentumSGD, AdamW), (AdamW, MomentumSGD)])
def test_what_another_optimizer_has_kept_is_left_and_told(first, second):
    flat = Flat(weights())
    before, after = first(OPTIONS, flat), second(OPTIONS, flat)
    take(before, flat, 0)
    assert after.load(before.state()) == f"{after.words} of 3 of 3 trained tensors"
    assert all((array == 0).all() for of_each in after.state().values() for array in of_each.values())
    assert second(OPTIONS, flat).load(after.state()) is None
