"""Layers of mobile networks: convolution, batch norm and PReLU, which CPU kernels fuse in training."""

import math
from ctypes import CDLL

import paddle
from paddle import nn

from arcface.backbones.batch_norm import EPSILON, MOMENTUM
from arcface.ops.conv_bn_prelu import ConvBnPrelu, Convolution, can_fuse, fused_convolutions

PRELU_SLOPE = 0.25  # initial value; He et al. 2015, arXiv:1502.01852


class Conv2D(nn.Conv2D):
    """Square convolution without bias; a depthwise one filters each channel separately.

    Initial weights are normal with standard deviation sqrt(2 / fan_in) (He et al. 2015, arXiv:1502.01852), where fan_in is the
    number of inputs of one output: those of a single channel if depthwise. (Paddle's default counts all channels.)
    """

    def __init__(self, channels_in, channels_out, kernel, stride=1, padding=0, depthwise=False):
        groups = channels_in if depthwise else 1
        fan_in = channels_in // groups * kernel * kernel
        initial = nn.initializer.Normal(0.0, math.sqrt(2 / fan_in))
        super().__init__(
            channels_in,
            channels_out,
            kernel,
            stride,
            padding,
            groups=groups,
            weight_attr=paddle.ParamAttr(initializer=initial),
            bias_attr=False,
        )
        self.shape = Convolution(channels_out, kernel, stride, padding, depthwise)


def batch_norm_rows(batch_norm: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """Return rows [N, D], normalised by a layer for [N, C, H, W]."""
    return batch_norm(x.reshape([-1, x.shape[1], 1, 1])).reshape([-1, x.shape[1]])


def prelu(channels: int) -> nn.PReLU:
    """Return a PReLU with one slope per channel."""
    return nn.PReLU(channels, init=PRELU_SLOPE)


class FusedConvolutions(nn.Sequential):
    """Convolutions, each followed by batch norm and optionally PReLU; `residual` adds the input to the output.

    With a kernel library (see `fuse_convolutions`), one call of it computes all these layers in training.
    """

    library: CDLL | None = None

    def forward(self, x: paddle.Tensor, residual: bool = False) -> paddle.Tensor:
        convolutions = [layer.shape for layer in self if isinstance(layer, Conv2D)]
        if self.training and self.library and can_fuse(convolutions, x):
            return fused_convolutions(self.library, x, self._tensors(), residual, EPSILON, MOMENTUM)
        y = x
        for layer in self.children():  # not super().forward, on which Paddle's export recurses forever
            y = layer(y)
        return x + y if residual else y

    def _tensors(self) -> list[ConvBnPrelu]:
        """Return the tensors of each convolution with its batch norm and PReLU."""
        tensors, layers = [], [*self, None]
        for conv, norm, last in zip(layers, layers[1:], layers[2:], strict=False):
            if isinstance(conv, Conv2D):
                slope = last.parameters()[0] if isinstance(last, nn.PReLU) else None
                parameters = dict(norm.named_parameters())
                scale, shift, mean, variance = (parameters[name] for name in ("weight", "bias", "_mean", "_variance"))
                tensors.append(ConvBnPrelu(conv.shape, conv.weight, scale, shift, mean, variance, slope))
        return tensors


def fuse_convolutions(backbone: nn.Layer, library: CDLL | None) -> None:
    """Set the kernel library that trains a backbone's fused convolutions (local batch norm only); None uses Paddle's layers."""
    for layer in backbone.sublayers(include_self=True):
        if isinstance(layer, FusedConvolutions):
            layer.library = library
