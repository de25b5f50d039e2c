"""Layers of backbones with their initial values; convolutions with batch norm and PReLU, which CPU kernels fuse in training."""

import math
from ctypes import CDLL

import paddle
from paddle import nn

from arcface.backbones.batch_norm import EPSILON, MOMENTUM
from arcface.backbones.recompute import RecomputableLayer
from arcface.ops.conv_bn_prelu import ConvBnPrelu, Convolution, can_fuse, fused_convolutions

PRELU_SLOPE = 0.25  # initial value; He et al. 2015, arXiv:1502.01852


class Conv2D(nn.Conv2D):
    """Square convolution without bias, over all channels, within `groups` of them, or depthwise: each channel separately.

    Initial weights are normal with standard deviation sqrt(2 / fan_in) (He et al. 2015, arXiv:1502.01852), where fan_in is the
    number of inputs of one output: those of a single group. (Paddle's default counts all channels.)
    """

    def __init__(self, channels_in, channels_out, kernel, stride=1, padding=0, depthwise=False, groups=1):
        groups = channels_in if depthwise else groups
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
        fits = depthwise or groups == 1
        self.shape = Convolution(channels_out, kernel, stride, padding, depthwise) if fits else None  # None: has no CPU kernel


def linear(values_in: int, values_out: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer from He's initial values, as `Conv2D`'s; the bias starts from 0."""
    initial = nn.initializer.Normal(0.0, math.sqrt(2 / values_in))
    zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    return nn.Linear(values_in, values_out, weight_attr=paddle.ParamAttr(initializer=initial), bias_attr=zero if bias else False)


def batch_norm_rows(batch_norm: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """Return rows [N, D], normalised by a layer for [N, C, H, W]."""
    return batch_norm(x.reshape([-1, x.shape[1], 1, 1])).reshape([-1, x.shape[1]])


def prelu(channels: int) -> nn.PReLU:
    """Return a PReLU with one slope per channel."""
    return nn.PReLU(channels, init=PRELU_SLOPE)


class Add(nn.Layer):
    """The sum of two tensors: a layer, so that its precision can be chosen (precision.py)."""

    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return x + y


class Product(nn.Layer):
    """The product of two stacks of matrices, the first times `scale`, the second transposed if asked for."""

    def __init__(self, scale: float = 1.0, transpose: bool = False):
        super().__init__()
        self.scale, self.transpose = scale, transpose

    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return paddle.matmul(x if self.scale == 1 else x * self.scale, y, transpose_y=self.transpose)


def keep_float32(layer: nn.Layer) -> nn.Layer:
    """Return a layer, marked with all below it to take, compute and return float32 in every precision of training."""
    for part in layer.sublayers(include_self=True):
        part.keeps_float32 = True
    return layer


class FusedConvolutions(RecomputableLayer, nn.Sequential):
    """Convolutions, each followed by batch norm and optionally PReLU; `residual` adds the input to the output.

    They may be sub-layers of sub-layers, which then apply them one after the other. With a kernel library (see
    `fuse_convolutions`), one call of it computes all these layers in training, also where they are frozen.
    """

    library: CDLL | None = None

    def forward(self, x: paddle.Tensor, residual: bool = False) -> paddle.Tensor:
        if self.library and (self.training or self._is_frozen()) and self._can_fuse(x):
            return fused_convolutions(self.library, x, self._tensors(), residual, not self.training, EPSILON, MOMENTUM)
        y = x
        for layer in self.children():  # not super().forward, on which Paddle's export recurses forever
            y = layer(y)
        return x + y if residual else y

    def _is_frozen(self) -> bool:
        return all(parameter.stop_gradient for parameter in self.parameters())

    def _can_fuse(self, x: paddle.Tensor) -> bool:
        convolutions = [layer for layer in self.sublayers() if isinstance(layer, Conv2D)]
        shapes = [layer.shape for layer in convolutions if layer.shape]
        return len(shapes) == len(convolutions) and can_fuse(shapes, x)

    def _tensors(self) -> list[ConvBnPrelu]:
        """Return the tensors of each convolution with its batch norm and PReLU."""
        tensors, layers = [], [*(layer for layer in self.sublayers() if not layer.sublayers()), None]
        for conv, norm, last in zip(layers, layers[1:], layers[2:], strict=False):
            if isinstance(conv, Conv2D) and conv.shape:
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
