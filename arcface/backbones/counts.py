"""Size and work of a backbone: its parameters, and the multiply-adds and outputs of one image."""

import math
from typing import NamedTuple

import paddle
from paddle import nn

from arcface.backbones.vit import PATCHES, Attention
from arcface.io.images import SIZE


class Counts(NamedTuple):
    """Numbers of a backbone; running statistics are no parameters, and what is added or normalised is no multiply-add."""

    parameters: int
    multiply_adds: int  # of convolutions, linear layers and attention, for one image
    outputs: int  # values that convolutions and linear layers write for one image


@paddle.no_grad()
def count(backbone: nn.Layer) -> Counts:
    """Return the counts of a backbone, from a pass over one image, which leaves it in evaluation mode."""
    multiply_adds = outputs = 0

    def add(layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        nonlocal multiply_adds, outputs
        if isinstance(layer, Attention):  # two products [PATCHES, dim] by [dim, PATCHES], and its linear layers count themselves
            multiply_adds += 2 * PATCHES**2 * layer.dim
            return
        values = math.prod(output.shape)
        of_one = layer.weight.shape[1:] if isinstance(layer, nn.Conv2D) else layer.weight.shape[:1]
        multiply_adds += values * math.prod(of_one)
        outputs += values

    backbone.eval()
    counted = [layer for layer in backbone.sublayers() if isinstance(layer, nn.Conv2D | nn.Linear | Attention)]
    hooks = [layer.register_forward_post_hook(add) for layer in counted]
    backbone(paddle.zeros([1, 3, SIZE, SIZE]))
    for hook in hooks:
        hook.remove()
    trained = (tensor for name, tensor in backbone.state_dict().items() if not name.endswith(("._mean", "._variance")))
    return Counts(sum(math.prod(tensor.shape) for tensor in trained), multiply_adds, outputs)
