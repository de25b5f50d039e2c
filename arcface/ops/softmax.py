"""CPU kernels of a margin softmax: passes over a block of classes and their centres (softmax.cc)."""

import ctypes

import paddle

from arcface.ops.build import pointer
from arcface.system.startup import threads


def exponentials(
    library: ctypes.CDLL,
    weight: paddle.Tensor,
    z: paddle.Tensor,
    shift: paddle.Tensor | None,
    smallest_norm: float,
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Turn products z [C, N] in place into exp(z / |w| - shift) / |w|, with w the rows of weight [C, D].

    shift: one for each column, [N, 1]; None for 0. Returns 1 / |w| [C, 1], where a norm below `smallest_norm` counts as that,
    and the sums of the exponentials, before their division by |w|, [1, N]. All are float32 and contiguous.
    """
    (classes, n), size = z.shape, weight.shape[1]
    inv_norm, sums = paddle.empty([classes, 1]), paddle.empty([1, n])
    shift = paddle.zeros([n, 1]) if shift is None else shift
    library.softmax_exponentials(
        *map(ctypes.c_int64, (classes, n, size)),
        pointer(weight),
        pointer(shift),
        ctypes.c_float(smallest_norm),
        threads(),
        pointer(z),
        pointer(inv_norm),
        pointer(sums),
    )
    return inv_norm, sums


def update(
    library: ctypes.CDLL,
    weight: paddle.Tensor,
    velocity: paddle.Tensor,
    classes: paddle.Tensor,
    gradient: paddle.Tensor,
    inv_norm: paddle.Tensor,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Take a step of momentum SGD in place on some classes, rows of weight and velocity [any number, D].

    classes: int64 [C], each once. gradient: [C, D], of which the part along each centre is left out. inv_norm: [C, 1], one by
    the length of each of these centres. All are float32 but classes, and contiguous.
    """
    library.softmax_update(
        *map(ctypes.c_int64, gradient.shape),
        pointer(classes),
        pointer(gradient),
        pointer(inv_norm),
        *map(ctypes.c_float, (lr, momentum, weight_decay)),
        threads(),
        pointer(weight),
        pointer(velocity),
    )
