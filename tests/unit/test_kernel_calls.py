"""The counter of kernel calls counts what is called, fills of gradients too, and says so if it sees nothing."""

import kernel_calls
import paddle
import pytest


def test_kernels_of_forward_and_backward_are_counted():
    x, w = paddle.ones([2, 3]), paddle.create_parameter([3, 3], "float32")
    with kernel_calls.kernel_calls() as calls:
        (paddle.matmul(x, w) * 2).sum().backward()
    assert {"matmul", "scale", "sum", "sum_grad", "matmul_grad"} <= set(calls)
    assert 5 <= len(calls) <= 9


@pytest.mark.parametrize("set_to_zero", [True, False])
def test_cleared_gradients_count_as_fills_if_they_are_filled(set_to_zero):
    layer = paddle.nn.Linear(3, 3)
    optimizer = paddle.optimizer.Momentum(parameters=layer.parameters())
    layer(paddle.ones([2, 3])).sum().backward()
    with kernel_calls.kernel_calls() as calls:
        optimizer.step()
        optimizer.clear_grad(set_to_zero)
    assert calls.count(kernel_calls.FILL) == 2 * set_to_zero


def test_a_profiler_that_names_kernels_otherwise_is_an_error(monkeypatch):
    monkeypatch.setattr(kernel_calls, "KERNEL", kernel_calls.re.compile("another name"))
    with pytest.raises(RuntimeError, match="it would count 0"), kernel_calls.kernel_calls():
        paddle.ones([2]) + 1
