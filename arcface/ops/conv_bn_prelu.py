"""CPU kernels of fused convolutions: convolution, batch norm and PReLU, one after the other in one call (conv_bn_prelu.cc)."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle.autograd import PyLayer

from arcface.ops.build import pointer
from arcface.system.startup import threads


@dataclass(frozen=True)
class Convolution:
    """The shape of a square convolution without bias; a depthwise one has a kernel for each channel."""

    channels_out: int
    kernel: int
    stride: int
    padding: int
    depthwise: bool

    def size_out(self, size: int) -> int:
        """Return the height of the output for that of the input; the same for the width."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class ConvBnPrelu:
    """The tensors of a convolution, of the batch norm after it, and of PReLU, if there is one.

    weight: [channels out, channels in or 1, kernel, kernel]; all others [channels out]; float32.
    """

    convolution: Convolution
    weight: paddle.Tensor
    scale: paddle.Tensor
    shift: paddle.Tensor
    running_mean: paddle.Tensor
    running_variance: paddle.Tensor
    slope: paddle.Tensor | None = None

    @property
    def trained(self) -> list[paddle.Tensor]:
        """The tensors that may have gradients, in a fixed order."""
        return [self.weight, self.scale, self.shift, *([] if self.slope is None else [self.slope])]


def can_fuse(convolutions: Sequence[Convolution], x: paddle.Tensor) -> bool:
    """Say whether `fused_convolutions` can run these on x [N, C, H, W]: float32 on a CPU, and each convolution is

    1x1, or depthwise 3x3 padded by 1, or depthwise with a kernel as large as its input, or the first one, of any square kernel, if
    x needs no gradient.
    """
    if x.dtype != paddle.float32 or not x.place.is_cpu_place():
        return False
    height, width = x.shape[2:]
    for position, convolution in enumerate(convolutions):
        geometry = (convolution.kernel, convolution.stride, convolution.padding)
        if convolution.depthwise:
            fits = geometry in ((3, 1, 1), (3, 2, 1)) or geometry == (height, 1, 0) and height == width > 1
        else:
            fits = geometry == (1, 1, 0) or position == 0 and x.stop_gradient
        if not fits:
            return False
        height, width = convolution.size_out(height), convolution.size_out(width)
    return min(height, width) > 0


def fused_convolutions(
    library: ctypes.CDLL,
    x: paddle.Tensor,
    layers: Sequence[ConvBnPrelu],
    residual: bool,
    fixed: bool,
    epsilon: float,
    momentum: float,
) -> paddle.Tensor:
    """Return the output [N, C, H', W'] of the layers one after the other, plus x if `residual`; see `can_fuse`.

    Batch norm takes the statistics of this batch, and its running ones become momentum * running + (1 - momentum) * batch. With
    `fixed` it takes the running ones and leaves them as they are.
    """
    trained = [tensor for layer in layers for tensor in layer.trained]
    return _FusedConvolutions.apply(x.contiguous(), library, layers, (residual, fixed), epsilon, momentum, *trained)


class _FusedConvolutions(PyLayer):
    @staticmethod
    def forward(ctx, x, library, layers, how, epsilon, momentum, *trained):
        images, _, height, width = x.shape
        values = 0
        for layer in layers:
            height, width = layer.convolution.size_out(height), layer.convolution.size_out(width)
            values += images * layer.convolution.channels_out * height * width
        y = paddle.empty([values])
        norms = paddle.empty([2 * sum(layer.convolution.channels_out for layer in layers)])
        z = paddle.empty([images, layers[-1].convolution.channels_out, height, width])
        _check_memory(
            library.conv_bn_prelu_forward(
                *_described(x, layers),
                *how,
                ctypes.c_float(epsilon),
                ctypes.c_float(momentum),
                threads(),
                pointer(y),
                pointer(norms),
                pointer(z),
            )
        )
        if not all(tensor.stop_gradient for tensor in (x, *trained)):
            ctx.save_for_backward(x, y, norms)
        ctx.library, ctx.layers, ctx.how = library, layers, how
        return z

    @staticmethod
    def backward(ctx, upstream):
        x, y, norms = ctx.saved_tensor()
        upstream = upstream.contiguous()
        by_x = None if x.stop_gradient else paddle.empty(x.shape)
        trained = [tensor for layer in ctx.layers for tensor in layer.trained]
        gradients = [[paddle.empty(tensor.shape) for tensor in layer.trained] for layer in ctx.layers]
        pointers = [pointer(tensor) for own in gradients for tensor in [*own, None][:4]]  # null for the slope without PReLU
        _check_memory(
            ctx.library.conv_bn_prelu_backward(
                *_described(x, ctx.layers),
                *ctx.how,
                threads(),
                pointer(y),
                pointer(norms),
                pointer(upstream),
                (ctypes.c_void_p * len(pointers))(*pointers),
                pointer(by_x),
            )
        )
        found = zip(trained, (gradient for own in gradients for gradient in own), strict=True)
        return by_x, *(None if tensor.stop_gradient else gradient for tensor, gradient in found)


def _check_memory(succeeded: bool) -> None:
    if not succeeded:
        raise MemoryError("the CPU kernels could not allocate memory")


def _described(x: paddle.Tensor, layers: Sequence[ConvBnPrelu]) -> tuple:
    """Return the arguments that both functions of the library begin with."""
    shapes: list[int] = []
    parameters: list[ctypes.c_void_p] = []
    for layer in layers:
        convolution = layer.convolution
        shapes += [convolution.channels_out, convolution.kernel, convolution.stride, convolution.padding, convolution.depthwise]
        parameters += map(
            pointer, [layer.weight, layer.scale, layer.shift, layer.slope, layer.running_mean, layer.running_variance]
        )
    return (
        (ctypes.c_int64 * 4)(*x.shape),
        pointer(x),
        (ctypes.c_int64 * len(shapes))(*shapes),
        (ctypes.c_void_p * len(parameters))(*parameters),
        ctypes.c_int64(len(layers)),
    )
