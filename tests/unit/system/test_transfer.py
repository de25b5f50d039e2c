"""Copies to and from the device wait for nothing but themselves; stand-ins take the place of a GPU and its pinned memory."""

import numpy as np
import paddle
import pytest

from arcface.system.transfer import to_device, to_host


@pytest.fixture
def gpu_calls(monkeypatch):
    """What is asked of a GPU, in order: a call's name and arguments."""
    calls, make, read = [], paddle.to_tensor, paddle.Tensor.numpy

    def stand_in(name):
        def call(tensor, *args, **kwargs):
            calls.append((name, *args, *kwargs.items()))
            return tensor

        return call

    for name in ("cuda", "pin_memory"):
        monkeypatch.setattr(paddle.Tensor, name, stand_in(name))
    monkeypatch.setattr(paddle.Tensor, "numpy", lambda tensor, *_: read(stand_in("numpy")(tensor)))
    monkeypatch.setattr(paddle, "to_tensor", lambda array, place: make(stand_in("to_tensor")(array, place)))
    monkeypatch.setattr(paddle, "CUDAPinnedPlace", lambda: "pinned")
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    event = type("Event", (), {name: stand_in(name) for name in ("record", "synchronize")})
    monkeypatch.setattr(paddle.device.cuda, "Event", event)
    return calls


def test_an_array_goes_to_a_gpu_through_pinned_memory_without_a_wait(gpu_calls):
    tensor = to_device(np.arange(3))
    assert gpu_calls == [("to_tensor", "pinned"), ("cuda", ("blocking", False))]
    assert tensor.tolist() == [0, 1, 2]


def test_a_tensor_comes_from_a_gpu_with_a_wait_for_its_own_copy_only(gpu_calls):
    values = to_host(paddle.arange(3))
    assert gpu_calls == [("pin_memory", ("blocking", False)), ("record",)]
    assert values().tolist() == [0, 1, 2]
    assert gpu_calls[2:] == [("synchronize",), ("numpy",)]


@pytest.mark.parametrize("array", [np.arange(6), np.arange(6, dtype=np.uint8)[::2], np.zeros([2, 0], np.float32)])
def test_on_a_cpu_the_tensor_has_the_array_s_values_and_dtype(array):
    tensor = to_device(array)
    assert tensor.place.is_cpu_place() and tensor.numpy().dtype == array.dtype and np.array_equal(tensor.numpy(), array)


def test_a_read_only_array_is_copied_on_a_cpu():
    array = np.arange(3)
    array.flags.writeable = False
    assert to_device(array).tolist() == [0, 1, 2]


def test_the_values_are_those_when_the_copy_was_asked_for():
    tensor = paddle.zeros([2])
    values = to_host(tensor)
    tensor.fill_(1)
    assert values().tolist() == [0, 0]
