"""Rows scaled to unit length, and the gradient through that; sums as each device makes them best."""

from functools import lru_cache

import paddle

SMALLEST_NORM = 1e-12  # a shorter row counts as this long

# On a CPU Paddle's own sum takes twice as long as a product with ones, its norm fourteen times. A GPU may round what a product
# takes to 11 bits (TF32), and sums quickly.
DEVICES_SUMMED_BY_PRODUCT = {"cpu"}


def unit(x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the rows of x [n, D] at unit length, and one by their lengths [n, 1]."""
    inv_norm = inv_norms(x)
    return x * inv_norm, inv_norm


def unit_backward(gradient: paddle.Tensor, unit_x: paddle.Tensor, inv_norm: paddle.Tensor) -> paddle.Tensor:
    """Return the gradient with respect to x, given the one with respect to unit(x): only the part across x counts."""
    return (gradient - row_sums(gradient * unit_x) * unit_x) * inv_norm


def inv_norms(x: paddle.Tensor) -> paddle.Tensor:
    """Return one by the lengths of the rows of x [n, D], [n, 1]."""
    return row_sums(x.square()).clip_(min=SMALLEST_NORM**2).rsqrt_()


def row_sums(x: paddle.Tensor) -> paddle.Tensor:
    """Return the sums of the rows of x [n, D], [n, 1]."""
    return paddle.matmul(x, _ones(x.shape[1], 1)) if _by_product() else x.sum(1, keepdim=True)


def column_sums(x: paddle.Tensor) -> paddle.Tensor:
    """Return the sums of the columns of x [n, D], [1, D]."""
    return paddle.matmul(_ones(1, len(x)), x) if _by_product() else x.sum(0, keepdim=True)


def _by_product() -> bool:
    return paddle.get_device() in DEVICES_SUMMED_BY_PRODUCT


@lru_cache(maxsize=16)
def _ones(*shape: int) -> paddle.Tensor:
    return paddle.ones(shape)
