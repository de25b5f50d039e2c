"""The averaged backbone: what it is, that it costs two kernel calls a step, and that it is what is verified, saved and read."""

import numpy as np
import paddle
import pytest
from kernel_calls import kernel_calls

from arcface.config import TrainConfig
from arcface.training.data import Batch
from arcface.training.model import Model
from arcface.weights.run_directory import find_backbone, trained_backbone
from arcface.weights.state_dict import as_arrays, state_dict_bytes

pytestmark = pytest.mark.usefixtures("tiny")

DECAY = 0.75


def start(**options) -> Model:
    config = TrainConfig(network="Tiny", cpu_kernels="off", batch_size=4, **({"ema": DECAY} | options))
    return Model(config, config, config, 9)


def step(model: Model, number: int = 0, finite: bool | None = None) -> None:
    draw = np.random.default_rng(number)
    labels = draw.integers(0, 9, 4)
    images = paddle.to_tensor(draw.integers(0, 256, (4, 3, 112, 112), np.uint8))
    computed = model.backward(model.forward(Batch(images, paddle.to_tensor(labels), labels), number))
    model.update(computed, 0.1, None if finite is None else paddle.to_tensor([finite]))


@pytest.mark.parametrize("finite", [None, True])
def test_weights_and_statistics_are_averaged_over_the_steps(finite):
    model = start()
    average = {name: array.copy() for name, array in as_arrays(model.backbone.state_dict()).items()}
    for number in range(3):
        step(model, number, finite)
        for name, value in as_arrays(model.backbone.state_dict()).items():
            average[name] = DECAY * average[name] + (1 - DECAY) * value
    saved = model.state().averages["ema"]
    assert saved.keys() == average.keys() and len(saved) == 8
    for name, array in saved.items():
        assert array == pytest.approx(average[name], rel=1e-5, abs=1e-6), name
        assert not np.array_equal(array, model.state().backbone[name]), name
    verified = model.broadcast_buffers().state_dict()
    assert all(np.array_equal(verified[name].numpy(), array) for name, array in saved.items())


def test_a_step_that_is_not_finite_leaves_the_average_as_it_is():
    model = start()
    step(model, 0)
    before = {name: array.copy() for name, array in model.state().averages["ema"].items()}
    step(model, 1, finite=False)
    assert all(np.array_equal(before[name], array) for name, array in model.state().averages["ema"].items())


def test_a_step_of_the_average_is_two_kernel_calls():
    model = start()
    with kernel_calls() as calls:
        model.average.update()
    assert calls == ["lerp", "lerp"]


def test_without_the_option_there_is_no_average():
    model = start(ema=0.0)
    step(model)
    assert "ema" not in model.state().averages and model.broadcast_buffers() is model.backbone


def test_a_run_that_starts_from_given_weights_averages_from_there():
    model = start()
    model.start_from({name: np.full(t.shape, 3, np.float32) for name, t in model.backbone.state_dict().items()}, "")
    assert all((array == 3).all() for array in model.state().averages["ema"].values())


@pytest.mark.parametrize("freeze", ["block", "backbone"])
def test_what_is_frozen_is_in_the_average_as_it_is(freeze):
    model = start(freeze=freeze, accumulate=2, recompute=1)
    for number in range(2):
        step(model, number)
    saved, trained = model.state().averages["ema"], model.state().backbone
    equal = [name for name in saved if np.array_equal(saved[name], trained[name])]
    assert equal == [name for name in trained if freeze == "backbone" or name.startswith("block.")]


def test_what_is_frozen_later_stays_in_the_average_until_it_is_all_of_it():
    first, second = start(), start(freeze="block")
    step(first)
    state = first.state()
    second.load(state, "here")
    step(second)
    name = "block.conv.weight"
    average, frozen, now = state.averages["ema"][name], state.backbone[name], second.state().averages["ema"][name]
    assert not np.array_equal(average, frozen)
    assert now == pytest.approx(DECAY * average + (1 - DECAY) * frozen, rel=1e-5, abs=1e-6)


def test_of_a_directory_s_weights_the_averaged_ones_are_read(tmp_path):
    model = start()
    step(model)
    state = model.state()
    (tmp_path / "Tiny.pdparams").write_bytes(state_dict_bytes(state.backbone))
    assert find_backbone(tmp_path, "Tiny").name == "Tiny.pdparams"
    (tmp_path / "Tiny_ema.pdparams").write_bytes(state_dict_bytes(state.averages["ema"]))
    assert find_backbone(tmp_path, "Tiny").name == "Tiny_ema.pdparams"
    read = trained_backbone(tmp_path, "Tiny", 128).state_dict()
    assert all(np.array_equal(read[name].numpy(), array) for name, array in state.averages["ema"].items())
