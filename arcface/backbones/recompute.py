"""Blocks that keep only their input for the backward pass, and compute their activations again there (arXiv:1604.06174)."""

from collections.abc import Iterator

import paddle
from paddle import nn
from paddle.autograd import PyLayer


class RecomputableLayer(nn.Layer):
    """A layer of one tensor. With `recompute`, it keeps none of its activations in training.

    The second computation gives the same bits, but updates the running statistics of batch norm once more: whoever trains with it
    restores them after the backward pass.
    """

    recompute = False

    def __call__(self, x: paddle.Tensor, *options) -> paddle.Tensor:
        if not (self.recompute and self.training and paddle.is_grad_enabled()):
            return super().__call__(x, *options)
        trained = [parameter for parameter in self.parameters() if not parameter.stop_gradient]
        return _Recomputed.apply(x, super().__call__, options, *trained)


def recomputable_blocks(backbone: nn.Layer) -> Iterator[RecomputableLayer]:
    """Yield the largest of a backbone's layers that can be recomputed; what is outside of them keeps its activations."""
    for layer in backbone.children():
        if isinstance(layer, RecomputableLayer):
            yield layer
        else:
            yield from recomputable_blocks(layer)


class _Recomputed(PyLayer):
    """A function of a tensor and of trained parameters, whose gradients are added where the parameters have them."""

    @staticmethod
    def forward(ctx, x, function, options, *trained):
        ctx.save_for_backward(x)
        ctx.function, ctx.options, ctx.trained = function, options, len(trained)
        return function(x, *options)

    @staticmethod
    def backward(ctx, upstream):
        (saved,) = ctx.saved_tensor()
        x = saved.detach()
        x.stop_gradient = saved.stop_gradient
        with paddle.enable_grad():
            y = ctx.function(x, *ctx.options)
        paddle.autograd.backward([y], [upstream])
        return (x.grad, *[None] * ctx.trained)
