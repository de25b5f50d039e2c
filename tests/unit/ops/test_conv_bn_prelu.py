"""Fused convolutions compute what Paddle's layers compute."""

import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from arcface.backbones import layers as layers_module
from arcface.backbones.layers import Conv2D, FusedConvolutions, fuse_convolutions
from arcface.backbones.mbf import ConvBlock
from arcface.backbones.stages import freeze
from arcface.ops import conv_bn_prelu
from arcface.ops.build import load_library
from arcface.ops.conv_bn_prelu import can_fuse


def layers(channels_in, channels_out, kernel, stride=1, padding=0, depthwise=False, prelu=True):
    conv = Conv2D(channels_in, channels_out, kernel, stride, padding, depthwise)
    return [conv, nn.BatchNorm2D(channels_out), *([nn.PReLU(channels_out)] if prelu else [])]


def with_random_weights(*layers):
    convolutions = FusedConvolutions(*layers)
    for tensor in convolutions.state_dict().values():
        if "conv" not in tensor.name:
            tensor.set_value(paddle.uniform(tensor.shape, min=0.2, max=1.5))
    return convolutions


def results(convolutions, x, residual=False, input_gradient=True, turn=False, frozen=False):
    """Output, gradients and running statistics of a step in training mode, by name; after `turn`, what comes back is not
    contiguous."""
    x = x.detach()
    x.stop_gradient = not input_gradient
    convolutions.train()
    if frozen:
        freeze(nn.Sequential(convolutions), ["0"])
    y = convolutions(x, residual)
    y = y.transpose([0, 1, 3, 2]) if turn else y
    upstream = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    (y * paddle.to_tensor(upstream)).sum().backward()
    gradients = {name: tensor.grad.numpy() for name, tensor in convolutions.named_parameters() if not tensor.stop_gradient}
    statistics = {name: tensor.numpy() for name, tensor in convolutions.named_parameters() if tensor.stop_gradient}
    return {"y": y.numpy(), **({"x": x.grad.numpy()} if input_gradient else {}), **gradients, **statistics}


def both_ways(make_layers, x, **options):
    """The same with Paddle's layers and with the kernels."""
    paddle.seed(0)
    plain = with_random_weights(*make_layers())
    fast = FusedConvolutions(*make_layers())
    fast.set_state_dict(plain.state_dict())
    fuse_convolutions(fast, load_library())
    assert fast.library and can_fuse([layer.shape for layer in fast.sublayers() if isinstance(layer, Conv2D)], x)
    return results(plain, x, **options), results(fast, x, **options)


def assert_equal_to_rounding(plain, fast, tolerance=1e-5):
    assert plain.keys() == fast.keys()
    for name in plain:
        assert np.abs(fast[name] - plain[name]).max() <= tolerance * np.abs(plain[name]).max(), name


def batch(images, channels, height, width=None, mean=1.0):
    rng = np.random.default_rng(2)
    return paddle.to_tensor(rng.normal(mean, 1, (images, channels, height, width or height)).astype(np.float32))


# The convolutions of the networks, and sizes that leave remainders everywhere.
@pytest.mark.parametrize("images", [1, 3, 37])
@pytest.mark.parametrize(
    "channels_in, channels_out, height, width",
    [(64, 128, 14, 14), (128, 64, 7, 7), (16, 24, 28, 28), (128, 512, 7, 7), (5, 7, 13, 9), (32, 10, 2, 3), (3, 4, 29, 31)],
)
def test_a_1x1_convolution_with_its_norm_equals_paddle_s(library, images, channels_in, channels_out, height, width):
    for prelu in (True, False):
        x = batch(images, channels_in, height, width)
        assert_equal_to_rounding(*both_ways(lambda: layers(channels_in, channels_out, 1, prelu=prelu), x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("images, height, width", [(2, 56, 56), (1, 28, 28), (3, 14, 14), (2, 7, 7), (2, 13, 6), (4, 1, 9)])
def test_a_depthwise_convolution_with_its_norm_equals_paddle_s(library, stride, images, height, width):
    x = batch(images, 20, height, width)
    assert_equal_to_rounding(*both_ways(lambda: layers(20, 20, 3, stride, 1, depthwise=True), x))


def test_a_depthwise_convolution_over_the_whole_plane_equals_paddle_s(library):
    assert_equal_to_rounding(*both_ways(lambda: layers(64, 64, 7, depthwise=True, prelu=False), batch(9, 64, 7)))


@pytest.mark.parametrize("kernel, stride, padding, size", [(3, 2, 1, 112), (3, 1, 1, 15), (5, 2, 0, 21)])
def test_a_first_convolution_equals_paddle_s(library, kernel, stride, padding, size):
    x = batch(2, 3, size)
    assert_equal_to_rounding(*both_ways(lambda: layers(3, 10, kernel, stride, padding), x, input_gradient=False))


def bottleneck(channels, inner, channels_out, stride):
    return [
        *layers(channels, inner, 1),
        *layers(inner, inner, 3, stride, 1, depthwise=True),
        *layers(inner, channels_out, 1, prelu=False),
    ]


@pytest.mark.parametrize("stride, residual, size", [(1, True, 14), (1, False, 9), (2, False, 14), (1, True, 28)])
def test_several_convolutions_with_and_without_their_input_added_equal_paddle_s(library, stride, residual, size):
    x = batch(5, 12, size)
    assert_equal_to_rounding(*both_ways(lambda: bottleneck(12, 26, 12, stride), x, residual=residual), tolerance=2e-5)


def test_frozen_convolutions_equal_paddle_s_with_their_running_statistics(library, monkeypatch):
    used = []
    real = layers_module.fused_convolutions
    monkeypatch.setattr(layers_module, "fused_convolutions", lambda *how: used.append(how[4]) or real(*how))
    plain, fast = both_ways(lambda: bottleneck(12, 26, 12, 1), batch(5, 12, 14), residual=True, frozen=True)
    assert_equal_to_rounding(plain, fast, tolerance=2e-5)
    assert used == [True] and np.abs(fast["x"]).max() > 0
    assert len(fast) == 2 + 17 and all(np.array_equal(plain[name], fast[name]) for name in fast if name not in "xy")


def test_convolutions_in_layers_of_their_own_equal_paddle_s(library):
    """As InsightFace names them: layers.0.layers.0 is a convolution."""

    def blocks():
        inner = ConvBlock(26, 26, 3, nn.BatchNorm2D, stride=1, padding=1, depthwise=True)
        return [ConvBlock(12, 26, 1, nn.BatchNorm2D), inner, ConvBlock(26, 12, 1, nn.BatchNorm2D, linear=True)]

    calls = []
    real = layers_module.fused_convolutions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers_module, "fused_convolutions", lambda *how: calls.append(len(how[2])) or real(*how))
        assert_equal_to_rounding(*both_ways(blocks, batch(5, 12, 14), residual=True), tolerance=2e-5)
    assert calls == [3]


def test_a_mean_far_from_zero_does_not_drown_the_variance(library):
    plain, fast = both_ways(lambda: layers(8, 8, 1), batch(4, 8, 10, mean=300.0))
    assert np.abs(fast["y"] - plain["y"]).max() <= 1e-3 * np.abs(plain["y"]).max()


def test_inputs_and_gradients_that_are_not_contiguous_give_the_same(library):
    turned = batch(3, 12, 6, 9).transpose([0, 1, 3, 2])
    assert_equal_to_rounding(*both_ways(lambda: layers(12, 8, 1), turned, turn=True))


def test_results_do_not_depend_on_the_number_of_threads(library, monkeypatch):
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(conv_bn_prelu, "threads", lambda: threads)
        found.append(both_ways(lambda: bottleneck(12, 26, 12, 1), batch(40, 12, 9), residual=True)[1])
    for other in found[1:]:
        assert all(np.array_equal(found[0][name], other[name]) for name in other)


AFTER_OPENMP = """
import ctypes
import importlib.util
from pathlib import Path
libraries = Path(importlib.util.find_spec("paddle").origin).parent / "libs"
ctypes.CDLL(str(libraries / "libiomp5.so"), mode=ctypes.RTLD_GLOBAL)
from tests.unit.ops.test_conv_bn_prelu import assert_equal_to_rounding, batch, both_ways, bottleneck, conv_bn_prelu
conv_bn_prelu.threads = lambda: 3
assert_equal_to_rounding(*both_ways(lambda: bottleneck(12, 26, 12, 1), batch(40, 12, 9), residual=True), tolerance=2e-5)
"""


def test_an_openmp_runtime_for_all_to_see_changes_nothing(library, repository):
    # Kernels built on OpenMP took half their calls from it, and trained on gradients twice as large.
    process = subprocess.run([sys.executable, "-c", AFTER_OPENMP], cwd=repository, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr


def test_what_is_not_finite_shows_in_output_and_statistics(library):
    x = batch(2, 8, 6)
    x[1, 3, 2, 2] = float("nan")
    fast = both_ways(lambda: layers(8, 8, 1), x)[1]
    assert np.isnan(fast["y"]).any() and np.isnan(fast["1._mean"]).all() and np.isnan(fast["1._variance"]).all()


def test_evaluation_and_other_types_take_paddle_s_layers(library, monkeypatch):
    monkeypatch.setattr("arcface.backbones.layers.fused_convolutions", lambda *_: pytest.fail("the kernels ran"))
    convolutions = FusedConvolutions(*layers(4, 6, 1))
    fuse_convolutions(convolutions, library)
    convolutions.eval()
    convolutions(batch(2, 4, 5))
    assert not can_fuse([convolutions[0].shape], batch(2, 4, 5).astype("float64"))
    grouped = Conv2D(4, 4, 5, padding=2, depthwise=True).shape
    assert not can_fuse([grouped], batch(2, 4, 9))
