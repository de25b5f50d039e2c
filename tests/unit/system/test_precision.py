"""TF32 is on only where it is asked for."""

import paddle
import pytest

from arcface.errors import UserError
from arcface.system import precision
from arcface.system.precision import allow_tf32, tf32

NAMES = ("cublas", "cudnn")


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for Paddle's switches, both on; the values that were set, in order."""
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    state, made = dict.fromkeys(NAMES, True), []

    def switch(name: str, allowed: bool) -> None:
        state[name] = allowed
        made.append((name, allowed))

    for name in NAMES:
        monkeypatch.setattr(precision.core, f"get_{name}_switch", lambda name=name: state[name], raising=False)
        monkeypatch.setattr(precision.core, f"set_{name}_switch", lambda allowed, name=name: switch(name, allowed), raising=False)
    return made


def both(allowed: bool) -> list[tuple[str, bool]]:
    return [(name, allowed) for name in NAMES]


def test_tf32_counts_inside_a_block_and_what_was_before_afterwards(calls):
    allow_tf32(False)
    with tf32(True):
        assert calls == both(False) + both(True)
        with tf32(False):
            assert calls[4:] == both(False)
        assert calls[6:] == both(True)
    assert calls[8:] == both(False)


def test_an_exception_restores_what_was_before(calls):
    allow_tf32(False)
    with pytest.raises(KeyError), tf32(True):
        raise KeyError
    assert calls[-2:] == both(False)


def test_without_cuda_nothing_is_switched(calls, monkeypatch):
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: False)
    with tf32(True):
        allow_tf32(False)
    assert calls == []


def test_a_paddle_without_the_switch_is_refused_unless_the_environment_switches_tf32_off(calls, monkeypatch):
    monkeypatch.delattr(precision.core, "set_cudnn_switch")
    allow_tf32(True)
    with pytest.raises(UserError, match="has no switch for TF32.*set NVIDIA_TF32_OVERRIDE=0"):
        allow_tf32(False)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    allow_tf32(False)


def test_paddles_own_switches_obey(monkeypatch):
    if not hasattr(precision.core, "get_cublas_switch"):
        pytest.skip("this build of Paddle has no switches")
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    read = [getattr(precision.core, f"get_{name}_switch") for name in NAMES]
    before = [one() for one in read]
    with tf32(True):
        assert [one() for one in read] == [True, True]
        with tf32(False):
            assert [one() for one in read] == [False, False]
    assert [one() for one in read] == before
