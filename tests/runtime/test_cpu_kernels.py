"""The CPU kernels compute what Paddle's layers compute, and are built once or done without."""

import os
import stat
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from arcface.backbones.layers import Chain, Conv2D, use_cpu_kernels
from arcface.runtime import cpu_kernels
from arcface.runtime.cpu_kernels import can_run, load_library


@pytest.fixture
def library():
    return load_library() or pytest.skip("no C++ compiler: the kernels cannot be built")


def layers(channels_in, channels_out, kernel, stride=1, padding=0, depthwise=False, prelu=True):
    conv = Conv2D(channels_in, channels_out, kernel, stride, padding, depthwise)
    return [conv, nn.BatchNorm2D(channels_out), *([nn.PReLU(channels_out)] if prelu else [])]


def chain_with_random_weights(*layers):
    chain = Chain(*layers)
    for name, tensor in chain.state_dict().items():
        if "conv" not in tensor.name:
            tensor.set_value(paddle.uniform(tensor.shape, min=0.2, max=1.5))
    return chain


def results(chain, x, residual=False, input_gradient=True):
    """Output, gradients and running statistics of a step in training mode, by name."""
    x = x.detach()
    x.stop_gradient = not input_gradient
    chain.train()
    y = chain(x, residual)
    upstream = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    (y * paddle.to_tensor(upstream)).sum().backward()
    gradients = {name: tensor.grad.numpy() for name, tensor in chain.named_parameters() if not tensor.stop_gradient}
    statistics = {name: tensor.numpy() for name, tensor in chain.named_parameters() if tensor.stop_gradient}
    return {"y": y.numpy(), **({"x": x.grad.numpy()} if input_gradient else {}), **gradients, **statistics}


def both_ways(make_layers, x, **options):
    """The same with Paddle's layers and with the kernels."""
    paddle.seed(0)
    plain = chain_with_random_weights(*make_layers())
    fast = Chain(*make_layers())
    fast.set_state_dict(plain.state_dict())
    use_cpu_kernels(fast)
    assert fast.library and can_run([layer.shape for layer in fast if isinstance(layer, Conv2D)], x)
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
    return [*layers(channels, inner, 1), *layers(inner, inner, 3, stride, 1, depthwise=True),
            *layers(inner, channels_out, 1, prelu=False)]  # fmt: skip


@pytest.mark.parametrize("stride, residual, size", [(1, True, 14), (1, False, 9), (2, False, 14), (1, True, 28)])
def test_a_chain_with_and_without_its_input_added_equals_paddle_s(library, stride, residual, size):
    x = batch(5, 12, size)
    assert_equal_to_rounding(*both_ways(lambda: bottleneck(12, 26, 12, stride), x, residual=residual), tolerance=2e-5)


def test_a_mean_far_from_zero_does_not_drown_the_variance(library):
    plain, fast = both_ways(lambda: layers(8, 8, 1), batch(4, 8, 10, mean=300.0))
    assert np.abs(fast["y"] - plain["y"]).max() <= 1e-3 * np.abs(plain["y"]).max()


def test_an_input_that_is_not_contiguous_gives_the_same(library):
    turned = batch(3, 12, 6, 9).transpose([0, 1, 3, 2])
    plain, fast = both_ways(lambda: layers(12, 8, 1), turned)
    assert_equal_to_rounding(plain, fast)


def test_results_do_not_depend_on_the_number_of_threads(library, monkeypatch):
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(cpu_kernels, "threads", lambda: threads)
        found.append(both_ways(lambda: bottleneck(12, 26, 12, 1), batch(40, 12, 9), residual=True)[1])
    for other in found[1:]:
        assert all(np.array_equal(found[0][name], other[name]) for name in other)


def test_what_is_not_finite_shows_in_output_and_statistics(library):
    x = batch(2, 8, 6)
    x[1, 3, 2, 2] = float("nan")
    fast = both_ways(lambda: layers(8, 8, 1), x)[1]
    assert np.isnan(fast["y"]).any() and np.isnan(fast["1._mean"]).all() and np.isnan(fast["1._variance"]).all()


def test_evaluation_and_other_types_take_paddle_s_layers(library, monkeypatch):
    monkeypatch.setattr("arcface.backbones.layers.run_chain", lambda *_: pytest.fail("the kernels ran"))
    chain = Chain(*layers(4, 6, 1))
    use_cpu_kernels(chain)
    chain.eval()
    chain(batch(2, 4, 5))
    assert not can_run([chain[0].shape], batch(2, 4, 5).astype("float64"))
    grouped = Conv2D(4, 4, 5, padding=2, depthwise=True).shape
    assert not can_run([grouped], batch(2, 4, 9))


LOAD = "from arcface.runtime.cpu_kernels import load_library; print(load_library())"


@pytest.fixture
def load_in_new_process(tmp_path, repository):
    """Returns a function that starts a process that loads the library, with a compiler of its own and an empty cache."""

    def start(compiler="g++", cache=tmp_path / "cache"):
        environment = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(repository)}
        return subprocess.Popen([sys.executable, "-c", LOAD], env=environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)  # fmt: skip

    return start


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_processes_that_start_at_once_build_once(library, load_in_new_process, tmp_path):
    compiler = script(tmp_path / "compiler", f'echo built >> {tmp_path}/built\nexec g++ "$@"')
    processes = [load_in_new_process(compiler) for _ in range(3)]
    assert all(process.communicate()[0].startswith("<CDLL") for process in processes)
    assert (tmp_path / "built").read_text() == "built\n"
    assert load_in_new_process("no-compiler").communicate()[0].startswith("<CDLL")  # it is in the cache


@pytest.mark.parametrize(
    "compiler, complaint",
    [
        ("no-such-compiler", "no C++ compiler (no-such-compiler); install g++, or name one in CXX"),
        ("exit 1", "returned non-zero exit status 1"),
        ('echo "broken.cc: error" >&2; exit 1', "broken.cc: error"),
        ('for last in "$@"; do :; done; echo half > "$last"; kill -9 $$', "died with <Signals.SIGKILL"),
    ],
)
def test_without_a_build_one_line_says_so_and_nothing_stays(load_in_new_process, tmp_path, compiler, complaint):
    compiler = script(tmp_path / "compiler", compiler) if " " in compiler else compiler
    printed, said = load_in_new_process(compiler).communicate()
    assert printed == "None\n"
    (line,) = [line for line in said.splitlines() if "no CPU kernels, training goes on with Paddle's own" in line]
    assert complaint in line
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.name != ".lock" and file.is_file()]


def test_a_home_that_cannot_be_written_to_is_done_without(library, load_in_new_process, tmp_path):
    (tmp_path / "file").touch()
    assert load_in_new_process(cache=tmp_path / "file").communicate()[0].startswith("<CDLL")
