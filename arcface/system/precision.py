"""TF32: on GPUs from Ampere on, float32 products and convolutions keep 10 bits of the mantissa, not 23, unless it is switched off.

Paddle has no public switch. The four functions of `paddle.base.core` that are used here are not public; 2.6.2 and 3.3.1 have them,
and look at the setting whenever a product (cuBLAS) or a convolution (cuDNN) is queued. Only this file knows them.
NVIDIA_TF32_OVERRIDE=0 in the environment turns TF32 off inside NVIDIA's libraries, whatever is set here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle.base import core

from arcface.errors import UserError

_SWITCHES = ("cublas", "cudnn")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32, or require full float32, for what is queued in the block; then the setting before it counts again.

    Does nothing without CUDA. Raises UserError as `allow_tf32` does.
    """
    before = _settings()
    allow_tf32(allowed)
    try:
        yield
    finally:
        _set(before)


def allow_tf32(allowed: bool) -> None:
    """Allow TF32, or require full float32, from here on; does nothing without CUDA.

    Raises UserError if TF32 cannot be switched off: head, loss and verification would silently lose 13 bits.
    """
    settings = _settings()
    _set(dict.fromkeys(settings, allowed))
    if allowed or len(settings) == len(_SWITCHES) or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return
    if paddle.device.is_compiled_with_cuda():
        raise UserError(
            f"paddlepaddle {paddle.__version__} has no switch for TF32, in which sums and distances are too inexact;"
            " set NVIDIA_TF32_OVERRIDE=0 to compute everything in full float32"
        )


def _settings() -> dict[str, bool]:
    """Return whether TF32 is allowed, of each switch that this Paddle has."""
    if not paddle.device.is_compiled_with_cuda():
        return {}
    return {name: getattr(core, f"get_{name}_switch")() for name in _SWITCHES if hasattr(core, f"set_{name}_switch")}


def _set(settings: dict[str, bool]) -> None:
    for name, allowed in settings.items():
        getattr(core, f"set_{name}_switch")(allowed)
