"""A backbone's tensors in one vector stay what they are, whatever Paddle does to them."""

import os
from pathlib import Path

import numpy as np
import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.config import TrainConfig
from arcface.training.data import Batch
from arcface.training.flat import ALIGNMENT, Flat
from arcface.training.model import Model
from arcface.weights.state_dict import as_arrays


@pytest.fixture
def tensors():
    shapes = {"a": [3, 2, 5], "b": [ALIGNMENT], "c": [7], "d": [2, 2]}
    return {name: paddle.randn(shape) for name, shape in shapes.items()}


def test_tensors_keep_their_values_and_become_parts_of_a_vector(tensors):
    before = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    flat = Flat(tensors)
    assert flat.vector.shape == [30 + ALIGNMENT + 7 + 4] and list(flat.parts(flat.vector)) == list(tensors)
    assert flat.parts(flat.vector)["b"].data_ptr() == flat.vector.data_ptr()  # the one that can be aligned comes first
    assert all(np.array_equal(tensors[name].numpy(), before[name]) for name in before) and flat.is_shared()
    flat.vector.scale_(2.0)
    tensors["c"].set_value(np.full(7, 5, np.float32))
    assert np.array_equal(tensors["a"].numpy(), 2 * before["a"]) and (flat.vector.numpy() == 5).sum() == 7
    parts = flat.parts(flat.gather({name: tensor + 1 for name, tensor in tensors.items()}))
    assert all(np.array_equal(parts[name].numpy(), tensors[name].numpy() + 1) for name in before)


def test_no_tensors_are_a_vector_of_one_0_without_parts():
    flat = Flat({})
    assert flat.vector.tolist() == flat.gather({}).tolist() == [0] and flat.parts(flat.vector) == {} and flat.is_shared()


@pytest.mark.parametrize("batch_norm", ["local", "sync", "frozen"])
def test_training_and_loading_leave_the_tensors_of_a_network_in_the_vector(batch_norm, tiny):
    backbone = create_backbone("Tiny", 6, batch_norm)
    flat = Flat(backbone.state_dict())
    backbone(paddle.randn([2, 3, 112, 112])).sum().backward()
    assert flat.is_shared()
    state = {name: np.full(tensor.shape, 3, np.float32) for name, tensor in backbone.state_dict().items()}
    backbone.set_state_dict(state)
    assert flat.is_shared() and all((part.numpy() == 3).all() for part in flat.parts(flat.vector).values())


def test_arrays_of_a_vector_s_parts_take_no_more_memory_than_the_vector():
    """`Tensor.numpy` of each part would copy, and keep, all of the vector."""
    flat = Flat({str(part): paddle.ones([ALIGNMENT, 2048]) for part in range(32)})
    before = resident()
    arrays = as_arrays(flat.tensors)
    assert resident() - before < 4 * 4 * flat.vector.size
    assert all((array == 1).all() for array in arrays.values()) and len(arrays) == 32


def resident() -> int:
    """This process's memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_layer_that_replaces_a_tensor_is_found_in_the_first_step_and_before_it_is_saved(tiny):
    config = TrainConfig(network="Tiny", cpu_kernels="off")
    model = Model(config, config, config, 9)
    model.state()
    paddle.zeros([8, 3, 7, 7])._share_underline_tensor_to(model.backbone.block.conv.weight)
    with pytest.raises(RuntimeError, match="not trained"):
        model.state()
    listed = np.array([1, 2])
    batch = Batch(paddle.ones([2, 3, 112, 112], "uint8"), paddle.to_tensor(listed), listed)
    computed = model.backward(model.forward(batch, 0))
    with pytest.raises(RuntimeError, match="not trained"):
        model.update(computed, 0.1)
