"""Layers of mobile networks: convolutions, each with batch norm and PReLU, which the CPU kernels fuse in training."""

import math
from ctypes import CDLL

import paddle
from paddle import nn

from arcface.backbones.batch_norm import EPSILON, MOMENTUM
from arcface.ops.conv_bn_prelu import ConvBnPrelu, Convolution, can_fuse, fused_convolutions

PRELU_SLOPE = 0.25  # at the start; He et al. 2015


class Conv2D(nn.Conv2D):
    """A square convolution without bias; a depthwise one convolves each channel by itself.

    Its weights start normal with a standard deviation of sqrt(2 / fan_in) (He et al. 2015, arXiv:1502.01852). The fan is
    what one output sums over: one channel in a depthwise convolution. (Paddle's default counts all channels.)
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


def prelu(channels: int) -> nn.PReLU:
    """Return a PReLU with a slope for each channel."""
    return nn.PReLU(channels, init=PRELU_SLOPE)


class FusedConvolutions(nn.Sequential):
    """Convolutions, each followed by batch norm and, if the next layer is one, PReLU; their input is added if `residual`.

    With a library (see `fuse_convolutions`), one call of the CPU kernels computes all of them in training.
    """

    library: CDLL | None = None

    def forward(self, x: paddle.Tensor, residual: bool = False) -> paddle.Tensor:
        convolutions = [layer.shape for layer in self if isinstance(layer, Conv2D)]
        if self.training and self.library and can_fuse(convolutions, x):
            return fused_convolutions(self.library, x, self._tensors(), residual, EPSILON, MOMENTUM)
        y = x
        for layer in self.children():  # not super().forward, on which Paddle's export recurses without end
            y = layer(y)
        return x + y if residual else y

    def _tensors(self) -> list[ConvBnPrelu]:
        """Return the tensors of each convolution and of what follows it."""
        tensors, layers = [], [*self, None]
        for conv, norm, last in zip(layers, layers[1:], layers[2:], strict=False):
            if isinstance(conv, Conv2D):
                slope = last.parameters()[0] if isinstance(last, nn.PReLU) else None
                of_norm = dict(norm.named_parameters())
                scale, shift, mean, variance = (of_norm[name] for name in ("weight", "bias", "_mean", "_variance"))
                tensors.append(ConvBnPrelu(conv.shape, conv.weight, scale, shift, mean, variance, slope))
        return tensors


def fuse_convolutions(backbone: nn.Layer, library: CDLL | None) -> None:
    """Have the CPU kernels train all fused convolutions of a backbone with local batch norm; None: Paddle's layers."""
    for layer in backbone.sublayers(include_self=True):
        if isinstance(layer, FusedConvolutions):
            layer.library = library
