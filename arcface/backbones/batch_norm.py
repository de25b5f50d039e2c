"""Batch norm over one rank's images, over all ranks' images, or with fixed statistics."""

from collections.abc import Callable
from functools import partial

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from arcface.runtime.distributed import all_reduce_sum, world_size

EPSILON = 1e-5  # Paddle's default
MOMENTUM = 0.9  # Paddle's default: running = MOMENTUM * running + (1 - MOMENTUM) * batch


def batch_norm_layer(kind: str) -> Callable[[int], nn.Layer]:
    """Return what makes a batch norm over [N, C, H, W] for C channels: "local", "sync" or "frozen".

    All have the same parameters and buffers under the same names, so a state dict fits any of them.
    """
    if kind == "frozen":
        return partial(nn.BatchNorm2D, use_global_stats=True)
    if kind == "sync" and paddle.get_device() == "cpu":
        return AllReduceBatchNorm2D  # Paddle's SyncBatchNorm has no CPU kernel
    return {"local": nn.BatchNorm2D, "sync": nn.SyncBatchNorm}[kind]


class AllReduceBatchNorm2D(nn.Layer):
    """Batch norm whose statistics are those of all ranks' images, in plain operations and all_reduce.

    Ioffe and Szegedy 2015, arXiv:1502.03167. Slow beside Paddle's own layers: it is there to prove on a CPU that W
    ranks train like one. Every rank must pass the same number of images.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = self.create_parameter([channels], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([channels], is_bias=True)
        self.register_buffer("_mean", paddle.zeros([channels]))
        self.register_buffer("_variance", paddle.ones([channels]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training:
            return nn.functional.batch_norm(x, self._mean, self._variance, self.weight, self.bias, epsilon=EPSILON)
        with paddle.no_grad():
            count = x.shape[0] * x.shape[2] * x.shape[3] * world_size()
            mean = all_reduce_sum(x.sum([0, 2, 3])) / count
            variance = all_reduce_sum((x - _per_channel(mean)).square().sum([0, 2, 3])) / count
            self._mean.set_value(self._mean * MOMENTUM + mean * (1 - MOMENTUM))
            self._variance.set_value(self._variance * MOMENTUM + variance * (1 - MOMENTUM))
            scale = (variance + EPSILON).rsqrt()
        normalised = _Normalise.apply(x, mean, scale, count)
        return normalised * _per_channel(self.weight) + _per_channel(self.bias)


class _Normalise(PyLayer):
    """(x - mean) * scale, where mean and scale are statistics of all ranks' x and carry gradients back to it."""

    @staticmethod
    def forward(ctx, x, mean, scale, count):
        normalised = (x - _per_channel(mean)) * _per_channel(scale)
        ctx.save_for_backward(normalised, scale)
        ctx.count = count
        return normalised

    @staticmethod
    def backward(ctx, upstream):
        normalised, scale = ctx.saved_tensor()
        sums = paddle.stack([upstream.sum([0, 2, 3]), (upstream * normalised).sum([0, 2, 3])])
        mean_upstream, mean_product = (all_reduce_sum(sums) / ctx.count).unbind()
        centred = upstream - _per_channel(mean_upstream) - normalised * _per_channel(mean_product)
        return centred * _per_channel(scale), None, None


def _per_channel(values: paddle.Tensor) -> paddle.Tensor:
    return values.reshape([1, -1, 1, 1])
