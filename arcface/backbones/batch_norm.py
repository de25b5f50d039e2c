"""Batch norm with statistics of one rank's images (local), of all ranks' images (sync), or fixed (frozen)."""

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from arcface.distributed.process_group import all_reduce_sum, world_size

EPSILON = 1e-5  # Paddle's default
MOMENTUM = 0.9  # Paddle's default: running = MOMENTUM * running + (1 - MOMENTUM) * batch


def batch_norm_layer(kind: str) -> Callable[..., nn.Layer]:
    """Return a function of (channels, epsilon=EPSILON) that creates a batch norm layer; `kind` is "local", "sync" or "frozen".

    The layer is for [N, C, H, W]. Parameters and buffers have the same names in all kinds, so the same state dict loads into any
    of them.
    """
    if kind == "sync" and paddle.get_device() == "cpu":
        return AllReduceBatchNorm2D  # Paddle's SyncBatchNorm has no CPU kernel
    layer = SyncBatchNorm if kind == "sync" else nn.BatchNorm2D
    fixed = {"use_global_stats": True} if kind == "frozen" else {}

    def create(channels: int, epsilon: float = EPSILON) -> nn.Layer:
        one, zero = (paddle.ParamAttr(initializer=nn.initializer.Constant(value)) for value in (1.0, 0.0))
        return layer(channels, epsilon=epsilon, weight_attr=one, bias_attr=zero, **fixed)

    return create


class SyncBatchNorm(nn.SyncBatchNorm):
    """Paddle's, but for a layer that is frozen within a network that is trained: its kernel has no such gradient."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return super().forward(x) if self.training else _with_running_statistics(self, x, self._epsilon)


class AllReduceBatchNorm2D(nn.Layer):
    """Batch norm with the statistics of all ranks' images, from plain operations and all_reduce.

    Ioffe and Szegedy 2015, arXiv:1502.03167. Slower than Paddle's layers; it proves on a CPU that W ranks train like one.
    Sums over images are computed in float64: how the images are divided over ranks then changes neither the statistics nor
    on which side of a PReLU's kink an activation falls. Every rank must pass the same number of images.
    """

    def __init__(self, channels: int, epsilon: float = EPSILON):
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([channels], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([channels], is_bias=True)
        self.register_buffer("_mean", paddle.zeros([channels]))
        self.register_buffer("_variance", paddle.ones([channels]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training:
            return _with_running_statistics(self, x, self.epsilon)
        with paddle.no_grad():
            mean = _mean_over_ranks(x)
            variance = _mean_over_ranks(_affine(x, paddle.ones_like(mean), -mean).square())
            self._mean.set_value(self._mean * MOMENTUM + mean * (1 - MOMENTUM))
            self._variance.set_value(self._variance * MOMENTUM + variance * (1 - MOMENTUM))
        return _Normalise.apply(x, self.weight, self.bias, mean, (variance + self.epsilon).rsqrt())


def _with_running_statistics(norm: nn.Layer, x: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    return nn.functional.batch_norm(x, norm._mean, norm._variance, norm.weight, norm.bias, epsilon=epsilon)


class _Normalise(PyLayer):
    """(x - mean) * inv_std * weight + bias, differentiated also through mean and inv_std, the statistics of all ranks' x."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, inv_std):
        normalised = _affine(x, inv_std, -mean * inv_std)
        ctx.save_for_backward(normalised, weight, inv_std)
        return _affine(normalised, weight, bias)

    @staticmethod
    def backward(ctx, upstream):
        normalised, weight, inv_std = ctx.saved_tensor()
        product = upstream * normalised
        centred = _affine(upstream, paddle.ones_like(inv_std), -_mean_over_ranks(upstream))
        projected = centred - _affine(normalised, _mean_over_ranks(product), paddle.zeros_like(inv_std))
        x_grad = _affine(projected, weight * inv_std, paddle.zeros_like(inv_std))
        return x_grad, _channel_sums(product), _channel_sums(upstream), None, None


def _affine(x: paddle.Tensor, scale: paddle.Tensor, shift: paddle.Tensor) -> paddle.Tensor:
    """Return x * scale + shift per channel, by batch norm's kernel, which is far faster on a CPU than broadcasting."""
    mean, variance = paddle.zeros_like(scale), paddle.ones_like(scale)
    return nn.functional.batch_norm(x, mean, variance, scale, shift, epsilon=0.0)


def _channel_sums(x: paddle.Tensor) -> paddle.Tensor:
    """Return each channel's sum over this rank's images and positions, [C]."""
    return x.sum([2, 3]).astype("float64").sum(0).astype(x.dtype)


def _mean_over_ranks(x: paddle.Tensor) -> paddle.Tensor:
    """Return each channel's mean over all ranks' images and positions, [C]."""
    total = all_reduce_sum(x.sum([2, 3]).astype("float64").sum(0))
    return (total / (x.shape[0] * x.shape[2] * x.shape[3] * world_size())).astype(x.dtype)
