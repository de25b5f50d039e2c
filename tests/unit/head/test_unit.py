"""Rows at unit length, and their gradient."""

import head_reference as reference
import numpy as np
import paddle
import pytest

from arcface.head.unit import SMALLEST_NORM, unit, unit_backward


def test_rows_have_unit_length_and_the_gradient_is_the_derivative():
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(0, 3, (5, 7)), rng.normal(size=(5, 7))
    unit_x, inv_norm = unit(paddle.to_tensor(x, "float32"))
    assert (unit_x.numpy() ** 2).sum(1) == pytest.approx(np.ones(5), rel=1e-6)
    assert 1 / inv_norm.numpy() == pytest.approx(np.linalg.norm(x, axis=1, keepdims=True), rel=1e-6)
    expected = reference.gradient(lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True) * upstream).sum(), x)
    gradient = unit_backward(paddle.to_tensor(upstream, "float32"), unit_x, inv_norm)
    assert gradient.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_row_of_zeros_stays_finite():
    unit_x, inv_norm = unit(paddle.zeros([1, 4]))
    assert not unit_x.numpy().any() and inv_norm.item() == pytest.approx(1 / SMALLEST_NORM)
