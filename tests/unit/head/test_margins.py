"""The margin function: published settings, monotone, finite at the ends."""

import head_cases as cases
import head_reference as reference
import numpy as np
import paddle
import pytest

from arcface.head.margins import COSINE_LIMIT, Margin, apply_margin

COSINES = np.cos(np.linspace(0.01, np.pi - 0.01, 997))


def applied(cosines, margins, dtype="float64"):
    value, derivative = apply_margin(paddle.to_tensor(cosines, dtype), Margin(*margins))
    return value.numpy(), derivative.numpy()


@pytest.mark.parametrize("name", cases.MARGINS)
def test_value_and_derivative_are_those_of_the_formula(name):
    margins = cases.MARGINS[name]
    value, derivative = applied(COSINES, margins)
    assert value == pytest.approx(np.array([reference.margin(c, *margins) for c in COSINES]), abs=1e-8)
    step = 1e-7
    differences = (applied(COSINES + step, margins)[0] - applied(COSINES - step, margins)[0]) / (2 * step)
    assert derivative == pytest.approx(differences, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("margins", [*cases.MARGINS.values(), (1.0, 0.9, 0.15), (2.0, 0.3, 0.2)])
def test_a_worse_angle_never_gets_a_better_value(margins):
    value, derivative = applied(np.cos(np.linspace(0, np.pi, 5001)), margins)
    assert (np.diff(value) <= 1e-12).all()
    assert (derivative >= -1e-9).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 + 2e-7, -1.0 - 2e-7])
def test_cosines_at_and_beyond_the_ends_are_clamped_with_derivative_0(cosine, dtype):
    value, derivative = applied([cosine], (1.0, 0.5, 0.0), dtype)
    inside, _ = applied([np.sign(cosine) * COSINE_LIMIT], (1.0, 0.5, 0.0))
    assert value[0] == pytest.approx(inside[0], abs=1e-4)
    assert derivative[0] == 0


def test_no_margin_changes_nothing():
    value, derivative = applied(COSINES, (1.0, 0.0, 0.0))
    assert value == pytest.approx(COSINES, abs=1e-12)
    assert derivative == pytest.approx(np.ones_like(COSINES), abs=1e-9)
