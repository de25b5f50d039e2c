"""What docs/head.md says of this head beside InsightFace's arcface_torch."""

import numpy as np
import paddle
import pytest

from arcface.head.margins import Margin, apply_margin
from arcface.head.partial_fc import PartialFC


@pytest.mark.parametrize("degrees, factor", [(90, 0.88), (75, 1.01), (60, 1.15), (45, 1.36)])
def test_the_gradient_has_the_factor_that_the_page_names(repository, degrees, factor):
    angle = np.radians(degrees)
    _, derivative = apply_margin(paddle.to_tensor([np.cos(angle)], "float64"), Margin())
    assert derivative.item() == pytest.approx(np.sin(angle + 0.5) / np.sin(angle), rel=1e-9)
    assert derivative.item() == pytest.approx(factor, abs=0.005)
    assert f"{factor:.2f}" in (repository / "docs" / "head.md").read_text()


def test_a_hopeless_row_s_loss_has_no_cap():
    head = PartialFC(2, 4)
    head.weight.set_value(paddle.to_tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
    loss = head.loss(paddle.to_tensor([[1.0, 0, 0, 0]]), paddle.to_tensor([1]), 0)
    assert 120 < loss.item() < 160  # and not -log(1e-30), 69.078
