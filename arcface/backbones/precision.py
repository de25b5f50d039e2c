"""Precision of a backbone in training: which layers compute in bfloat16 or float16 ("low"), and what they hand on.

    layer                       input     parameters   output
    Conv2D, Linear, PReLU       low       low          low
    ReLU6, Softmax, Product     low       -            low
    Add                         low       -            low
    batch norm                  low       float32      low        its statistics and arithmetic are float32
    depthwise Conv2D            float32   float32      low        Paddle's kernel sums in the type of its input
    LayerNorm                   float32   float32      float32
    what `keep_float32` marks   float32   float32      float32

Parameters stay float32, and their casts give float32 gradients. Between layers activations have the low type, so that it is what
is kept for the backward pass. Paddle's GPU kernels of batch norm and softmax compute in float32 on low inputs, and those of
convolutions and products sum in it. InsightFace's arcface_torch too computes the last layers in float32.

Paddle's kernels for a CPU know float32 only. There, low types are emulated: the same tensors, and the gradients of the same
tensors, are rounded to the values that the low type has.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer

from arcface.backbones.batch_norm import AllReduceBatchNorm2D
from arcface.backbones.layers import Add, FusedConvolutions, Product
from arcface.errors import UserError

DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
BFLOAT16_BITS = 8  # of the mantissa, with the one that is not stored; float32 has 24

Cast = Callable[[paddle.Tensor, str], paddle.Tensor]


class Rule(NamedTuple):
    """Types of a layer's inputs, parameters and output: "low", "float32", or None for as they come."""

    inputs: str | None = "low"
    parameters: str | None = "low"
    output: str | None = "low"


BATCH_NORM = (nn.BatchNorm2D, nn.SyncBatchNorm, AllReduceBatchNorm2D)
FLOAT32 = Rule("float32", None, "float32")
DEPTHWISE = Rule("float32", None)
RULES: list[tuple[tuple[type[nn.Layer], ...], Rule]] = [
    ((nn.Conv2D, nn.Linear, nn.PReLU, nn.ReLU6, nn.Softmax, Product, Add), Rule()),
    (BATCH_NORM, Rule(parameters=None)),
    ((nn.LayerNorm,), FLOAT32),
    ((FusedConvolutions,), Rule(None, None)),  # which may add its input
]


def rule_of(layer: nn.Layer) -> Rule | None:
    """Return the rule for a layer of a backbone; None for one that only calls others."""
    if getattr(layer, "keeps_float32", False):
        return None if layer.sublayers() else FLOAT32
    if isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 1:
        return DEPTHWISE
    return next((rule for kinds, rule in RULES if isinstance(layer, kinds)), None)


def check_precision(precision: str, emulation: bool, device: str) -> None:
    """Raise UserError if a device, "cpu" or "gpu:0"..., does not compute in a precision and need not emulate it."""
    if device == "cpu" and precision != "float32" and not emulation:
        raise UserError(
            f"--precision {precision}: a CPU trains in float32; use --precision float32 or a GPU, or, to see how training goes in"
            f" {precision}, --precision_emulation 1, which is slower"
        )
    if device != "cpu" and emulation:
        raise UserError("--precision_emulation 1: only a CPU emulates; leave it out on a GPU")


def use_precision(backbone: nn.Layer, precision: str) -> None:
    """Let a backbone train in "float32", "bf16" or "fp16" on Paddle's device; a CPU emulates. It evaluates in float32 always.

    Raises UserError for a GPU that does not compute in it.
    """
    if precision == "float32":
        return
    emulates = paddle.get_device() == "cpu"
    supported = paddle.amp.is_bfloat16_supported if precision == "bf16" else paddle.amp.is_float16_supported
    if not emulates and not supported():
        raise UserError(f"--precision {precision}: {paddle.get_device()} does not compute in it; use another precision")
    use_casts(backbone, DTYPES[precision], emulated_cast if emulates else cast)


def use_casts(backbone: nn.Layer, low: str, cast: Cast) -> None:
    """Have a backbone's layers follow their rules in training, by a cast that is given; `low` is "bfloat16" or "float16"."""
    for layer in backbone.sublayers():
        if rule := rule_of(layer):
            _follow(layer, rule, low, cast, backbone)
    backbone.register_forward_post_hook(lambda layer, inputs, output: cast(output, "float32") if layer.training else None)


def cast(x: paddle.Tensor, dtype: str) -> paddle.Tensor:
    """Return x in a type, "float32", "bfloat16" or "float16"; its gradient is cast back. x itself if it has that type."""
    return x if x.dtype == getattr(paddle, dtype) else x.astype(dtype)


def emulated_cast(x: paddle.Tensor, dtype: str) -> paddle.Tensor:
    """Return x, float32, with values that the type has, and so its gradient."""
    return x if dtype == "float32" else _Rounded.apply(x, dtype)


def _follow(layer: nn.Layer, rule: Rule, low: str, cast: Cast, backbone: nn.Layer) -> None:
    """Have a layer's inputs and output cast, and its parameters for the time of its call, while the backbone trains.

    Frozen layers, which compute as in evaluation, too: those around them take and give low types.
    """
    inputs, parameters, output = (low if kind == "low" else kind for kind in rule)

    def before(layer: nn.Layer, given: tuple) -> tuple | None:
        if not backbone.training:
            return None
        if parameters:
            # An attribute is found before the parameter of its name, which stays what it is.
            for name, parameter in layer.named_parameters(include_sublayers=False):
                vars(layer)[name] = cast(parameter, parameters)
        return tuple(cast(x, inputs) for x in given) if inputs else None

    def after(layer: nn.Layer, given: tuple, returned: paddle.Tensor) -> paddle.Tensor | None:
        if not backbone.training:
            return None
        if parameters:
            for name, _ in layer.named_parameters(include_sublayers=False):
                del vars(layer)[name]
        return cast(returned, output) if output else None

    layer.register_forward_pre_hook(before)
    layer.register_forward_post_hook(after)


class _Rounded(PyLayer):
    """The identity, but for rounding; and so is its gradient."""

    @staticmethod
    def forward(ctx, x: paddle.Tensor, dtype: str) -> paddle.Tensor:
        ctx.dtype = dtype
        return rounded(x, dtype)

    @staticmethod
    def backward(ctx, upstream: paddle.Tensor) -> paddle.Tensor:
        return rounded(upstream, ctx.dtype)


def rounded(x: paddle.Tensor, dtype: str) -> paddle.Tensor:
    """Return x, float32, rounded to the nearest values, even ones of two, that "bfloat16" or "float16" has.

    Not by Paddle's cast, which truncates on a CPU in 2.6. What float16 does not hold becomes infinite; infinite values may become
    NaN in bfloat16, and so do those beyond 5e33, which it holds.
    """
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return paddle.to_tensor(x.numpy().astype(np.float16).astype(np.float32))
    spread = x * (2.0 ** (24 - BFLOAT16_BITS) + 1)  # Dekker 1971, doi:10.1007/BF01397083: the upper bits of a product's factor
    return spread - (spread - x)
