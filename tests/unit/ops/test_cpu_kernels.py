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
from arcface.ops import cpu_kernels
from arcface.ops.cpu_kernels import can_run, load_library


@pytest.fixture
def library():
    return load_library() or pytest.skip("no C++ compiler: the kernels cannot be built")


def layers(channels_in, channels_out, kernel, stride=1, padding=0, depthwise=False, prelu=True):
    conv = Conv2D(channels_in, channels_out, kernel, stride, padding, depthwise)
    return [conv, nn.BatchNorm2D(channels_out), *([nn.PReLU(channels_out)] if prelu else [])]


def chain_with_random_weights(*layers):
    chain = Chain(*layers)
    for tensor in chain.state_dict().values():
        if "conv" not in tensor.name:
            tensor.set_value(paddle.uniform(tensor.shape, min=0.2, max=1.5))
    return chain


def results(chain, x, residual=False, input_gradient=True, turn=False):
    """Output, gradients and running statistics of a step in training mode, by name; after `turn`, what comes back is not
    contiguous."""
    x = x.detach()
    x.stop_gradient = not input_gradient
    chain.train()
    y = chain(x, residual)
    y = y.transpose([0, 1, 3, 2]) if turn else y
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
    return [
        *layers(channels, inner, 1),
        *layers(inner, inner, 3, stride, 1, depthwise=True),
        *layers(inner, channels_out, 1, prelu=False),
    ]


@pytest.mark.parametrize("stride, residual, size", [(1, True, 14), (1, False, 9), (2, False, 14), (1, True, 28)])
def test_a_chain_with_and_without_its_input_added_equals_paddle_s(library, stride, residual, size):
    x = batch(5, 12, size)
    assert_equal_to_rounding(*both_ways(lambda: bottleneck(12, 26, 12, stride), x, residual=residual), tolerance=2e-5)


def test_a_mean_far_from_zero_does_not_drown_the_variance(library):
    plain, fast = both_ways(lambda: layers(8, 8, 1), batch(4, 8, 10, mean=300.0))
    assert np.abs(fast["y"] - plain["y"]).max() <= 1e-3 * np.abs(plain["y"]).max()


def test_inputs_and_gradients_that_are_not_contiguous_give_the_same(library):
    turned = batch(3, 12, 6, 9).transpose([0, 1, 3, 2])
    assert_equal_to_rounding(*both_ways(lambda: layers(12, 8, 1), turned, turn=True))


def test_results_do_not_depend_on_the_number_of_threads(library, monkeypatch):
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(cpu_kernels, "threads", lambda: threads)
        found.append(both_ways(lambda: bottleneck(12, 26, 12, 1), batch(40, 12, 9), residual=True)[1])
    for other in found[1:]:
        assert all(np.array_equal(found[0][name], other[name]) for name in other)


AFTER_OPENMP = """
import ctypes
import importlib.util
from pathlib import Path
libraries = Path(importlib.util.find_spec("paddle").origin).parent / "libs"
ctypes.CDLL(str(libraries / "libiomp5.so"), mode=ctypes.RTLD_GLOBAL)
from tests.unit.ops.test_cpu_kernels import assert_equal_to_rounding, batch, both_ways, bottleneck, cpu_kernels
cpu_kernels.threads = lambda: 3
assert_equal_to_rounding(*both_ways(lambda: bottleneck(12, 26, 12, 1), batch(40, 12, 9), residual=True), tolerance=2e-5)
"""


def test_an_openmp_runtime_for_all_to_see_changes_nothing(library, repository):
    # Kernels built on OpenMP took half their calls from it, and trained on gradients twice as large.
    process = subprocess.run([sys.executable, "-c", AFTER_OPENMP], cwd=repository, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr


AFTER_A_FORK = """
import os
from tests.unit.ops.test_cpu_kernels import update_of_ones
expected = update_of_ones()
child = os.fork()
if child == 0:
    os._exit(update_of_ones() != expected)
assert os.waitpid(child, 0)[1] == 0
"""


def update_of_ones() -> list:
    weight, velocity, ones = paddle.ones([300, 8]), paddle.zeros([300, 8]), paddle.ones([300, 8])
    cpu_kernels.threads = lambda: 3
    cpu_kernels.update(load_library(), weight, velocity, paddle.arange(300), ones, ones[:, :1].contiguous(), 0.1, 0.9, 0.1)
    return weight.tolist()


def test_a_forked_process_has_threads_of_its_own(library, repository):
    process = subprocess.run([sys.executable, "-c", AFTER_A_FORK], cwd=repository, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr


def test_what_is_not_finite_shows_in_output_and_statistics(library):
    x = batch(2, 8, 6)
    x[1, 3, 2, 2] = float("nan")
    fast = both_ways(lambda: layers(8, 8, 1), x)[1]
    assert np.isnan(fast["y"]).any() and np.isnan(fast["1._mean"]).all() and np.isnan(fast["1._variance"]).all()


# sizes that fill the vectors, leave remainders, are smaller than one, and have more than one piece of rows
@pytest.mark.parametrize("rows, n, size", [(200, 128, 128), (64, 8, 16), (65, 13, 19), (1, 1, 1), (130, 3, 5)])
def test_exponentials_of_a_head_s_block(library, monkeypatch, rows, n, size):
    rng = np.random.default_rng(rows)
    weight = rng.normal(0, 0.1, (rows, size)).astype(np.float32)
    lengths = np.linalg.norm(weight.astype(np.float64), axis=1, keepdims=True)
    x = rng.uniform(-100, 64, (rows, n))
    shift, hidden = rng.uniform(0, 20, (1, n)).astype(np.float32), rng.integers(-1, rows + 1, n)
    logits = (x * lengths).astype(np.float32)
    expected = np.exp(logits / lengths - shift)
    for column, row in enumerate(hidden):
        if 0 <= row < rows:
            expected[row, column] = 0
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(cpu_kernels, "threads", lambda: threads)
        arrays = [paddle.to_tensor(array) for array in (weight, logits, hidden, shift)]
        inverses, sums = cpu_kernels.exponentials(library, *arrays, 1e-12)
        found.append((arrays[1].numpy(), inverses.numpy(), sums.numpy()))
    divided, inverses, sums = found[0]
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other))
    assert inverses == pytest.approx(1 / lengths, rel=1e-6)
    # Of the argument, up to 120, rounding alone leaves so much.
    assert divided * lengths == pytest.approx(expected, rel=3e-5, abs=1e-37)
    assert sums == pytest.approx(expected.sum(0, keepdims=True), rel=3e-5, abs=1e-37)
    assert ((divided == 0) == (expected < np.exp(-87.0))).mean() > 0.999


def test_the_exponential_is_exact_to_rounding(library):
    x = np.linspace(-87, 87, 100_001, dtype=np.float32)[:, None]
    values, one, nowhere = paddle.to_tensor(x), paddle.ones([len(x), 1]), paddle.to_tensor([-1])
    cpu_kernels.exponentials(library, one, values, nowhere, paddle.zeros([1, 1]), 1e-12)
    assert values.numpy() == pytest.approx(np.exp(x.astype(np.float64)), rel=2.5e-7)


def test_what_is_not_finite_shows_in_the_head_s_exponentials(library):
    weight, logits = paddle.ones([70, 9]), paddle.ones([70, 9])
    weight[3, 1], logits[68, 8] = float("nan"), float("nan")
    hidden = paddle.full([9], -1, "int64")
    inverses, sums = cpu_kernels.exponentials(library, weight, logits, hidden, paddle.zeros([1, 9]), 1e-12)
    assert np.isnan(sums.numpy()).all() and np.isnan(inverses.numpy()).sum() == 1 and np.isnan(logits.numpy()).sum() == 10


@pytest.mark.parametrize("rows, size", [(200, 128), (65, 19), (1, 1), (130, 5)])
def test_the_update_of_a_head_s_rows(library, rows, size):
    rng = np.random.default_rng(rows)
    at = np.sort(rng.permutation(rows + 3)[:rows])
    weight, velocity = (array.astype(np.float32) for array in rng.normal(0, 1, (2, rows + 3, size)))
    gradient = rng.normal(0, 1, (rows, size)).astype(np.float32)
    inverses = 1 / np.linalg.norm(weight[at], axis=1, keepdims=True)
    unit = weight[at] * inverses
    expected_weight, expected_velocity = weight.astype(np.float64), velocity.astype(np.float64)
    expected_velocity[at] = 0.9 * velocity[at] + gradient - (gradient * unit).sum(1, keepdims=True) * unit + 5e-4 * weight[at]
    expected_weight[at] -= 0.1 * expected_velocity[at]
    tensors = [paddle.to_tensor(array) for array in (weight, velocity, at, gradient, inverses)]
    cpu_kernels.update(library, *tensors, 0.1, 0.9, 5e-4)
    assert tensors[1].numpy() == pytest.approx(expected_velocity, rel=1e-5, abs=1e-5)
    assert tensors[0].numpy() == pytest.approx(expected_weight, rel=1e-5, abs=1e-6)
    others = np.delete(np.arange(rows + 3), at)
    assert np.array_equal(tensors[0].numpy()[others], weight[others])


def test_a_slice_of_a_tensor_is_worked_on_in_place(library):
    whole = paddle.full([10, 8], 2.0)
    cpu_kernels.exponentials(library, paddle.ones([2, 8]), whole[3:5], paddle.full([8], -1, "int64"), paddle.zeros([1, 8]), 1e-12)
    assert (whole.numpy() != 2).all(1).nonzero()[0].tolist() == [3, 4]


def test_evaluation_and_other_types_take_paddle_s_layers(library, monkeypatch):
    monkeypatch.setattr("arcface.backbones.layers.run_chain", lambda *_: pytest.fail("the kernels ran"))
    chain = Chain(*layers(4, 6, 1))
    use_cpu_kernels(chain)
    chain.eval()
    chain(batch(2, 4, 5))
    assert not can_run([chain[0].shape], batch(2, 4, 5).astype("float64"))
    grouped = Conv2D(4, 4, 5, padding=2, depthwise=True).shape
    assert not can_run([grouped], batch(2, 4, 9))


LOAD = "from arcface.ops.cpu_kernels import load_library; print(load_library())"


@pytest.fixture
def load_in_new_process(start_process, tmp_path, repository):
    """Returns a function that starts a process that loads the library, with a compiler of its own and an empty cache."""

    def start(compiler="g++", cache=tmp_path / "cache"):
        environment = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(repository)}
        return start_process(
            [sys.executable, "-c", LOAD], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_processes_that_start_at_once_build_once(library, load_in_new_process, tmp_path):
    compiler = script(tmp_path / "compiler", f'echo built >> {tmp_path}/built\nexec g++ "$@"')
    processes = [load_in_new_process(compiler) for _ in range(3)]
    assert all(process.communicate(timeout=120)[0].startswith("<CDLL") for process in processes)
    assert (tmp_path / "built").read_text() == "built\n"
    assert load_in_new_process("no-compiler").communicate(timeout=120)[0].startswith("<CDLL")  # it is in the cache


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
    printed, said = load_in_new_process(compiler).communicate(timeout=120)
    assert printed == "None\n"
    (line,) = [line for line in said.splitlines() if "no CPU kernels, training goes on with Paddle's own" in line]
    assert complaint in line
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.name != ".lock" and file.is_file()]


def test_a_home_that_cannot_be_written_to_is_done_without(library, load_in_new_process, tmp_path):
    (tmp_path / "file").touch()
    assert load_in_new_process(cache=tmp_path / "file").communicate(timeout=120)[0].startswith("<CDLL")
