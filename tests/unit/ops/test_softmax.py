"""The head's CPU kernels compute the formula, with any number of threads."""

import subprocess
import sys

import numpy as np
import paddle
import pytest

from arcface.ops import softmax
from arcface.ops.build import load_library


# sizes that fill the vectors, leave remainders, are smaller than one, and have more classes than a thread takes at a time
@pytest.mark.parametrize("classes, n, size", [(200, 128, 128), (64, 8, 16), (65, 13, 19), (1, 1, 1), (130, 3, 5)])
def test_exponentials_of_a_head_s_block(library, monkeypatch, classes, n, size):
    rng = np.random.default_rng(classes)
    weight = rng.normal(0, 0.1, (classes, size)).astype(np.float32)
    lengths = np.linalg.norm(weight.astype(np.float64), axis=1, keepdims=True)
    x = rng.uniform(-100, 64, (classes, n))
    shift, target = rng.uniform(0, 20, (n, 1)).astype(np.float32), rng.integers(-1, classes + 1, n)
    z = (x * lengths).astype(np.float32)
    for column, own in enumerate(target):
        if 0 <= own < classes:
            z[own, column] = -np.inf
    expected = np.exp(z / lengths - shift.T)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(softmax, "threads", lambda: threads)
        arrays = [paddle.to_tensor(array) for array in (weight, z, shift)]
        inv_norm, sums = softmax.exponentials(library, *arrays, 1e-12)
        found.append((arrays[1].numpy(), inv_norm.numpy(), sums.numpy()))
    divided, inv_norm, sums = found[0]
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other))
    assert inv_norm == pytest.approx(1 / lengths, rel=1e-6)
    # Of the argument, up to 120, rounding alone leaves so much.
    assert divided * lengths == pytest.approx(expected, rel=3e-5, abs=1e-37)
    assert sums == pytest.approx(expected.sum(0, keepdims=True), rel=3e-5, abs=1e-37)
    assert ((divided == 0) == (expected < np.exp(-87.0))).mean() > 0.999


def test_the_exponential_is_exact_to_rounding(library):
    x = np.linspace(-87, 87, 100_001, dtype=np.float32)[:, None]
    values = paddle.to_tensor(x)
    softmax.exponentials(library, paddle.ones([len(x), 1]), values, None, 1e-12)
    assert values.numpy() == pytest.approx(np.exp(x.astype(np.float64)), rel=2.5e-7)


def test_what_is_not_finite_shows_in_the_head_s_exponentials(library):
    weight, z = paddle.ones([70, 9]), paddle.ones([70, 9])
    weight[3, 1], z[68, 8] = float("nan"), float("nan")
    inv_norm, sums = softmax.exponentials(library, weight, z, None, 1e-12)
    assert np.isnan(sums.numpy()).all() and np.isnan(inv_norm.numpy()).sum() == 1 and np.isnan(z.numpy()).sum() == 10


@pytest.mark.parametrize("classes, size", [(200, 128), (65, 19), (1, 1), (130, 5)])
def test_the_update_of_a_head_s_rows(library, classes, size):
    rng = np.random.default_rng(classes)
    at = np.sort(rng.permutation(classes + 3)[:classes])
    weight, velocity = (array.astype(np.float32) for array in rng.normal(0, 1, (2, classes + 3, size)))
    gradient = rng.normal(0, 1, (classes, size)).astype(np.float32)
    inv_norm = 1 / np.linalg.norm(weight[at], axis=1, keepdims=True)
    unit = weight[at] * inv_norm
    expected_weight, expected_velocity = weight.astype(np.float64), velocity.astype(np.float64)
    expected_velocity[at] = 0.9 * velocity[at] + gradient - (gradient * unit).sum(1, keepdims=True) * unit + 5e-4 * weight[at]
    expected_weight[at] -= 0.1 * expected_velocity[at]
    tensors = [paddle.to_tensor(array) for array in (weight, velocity, at, gradient, inv_norm)]
    softmax.update(library, *tensors, 0.1, 0.9, 5e-4)
    assert tensors[1].numpy() == pytest.approx(expected_velocity, rel=1e-5, abs=1e-5)
    assert tensors[0].numpy() == pytest.approx(expected_weight, rel=1e-5, abs=1e-6)
    unused = np.delete(np.arange(classes + 3), at)
    assert np.array_equal(tensors[0].numpy()[unused], weight[unused])


def test_a_slice_of_a_tensor_is_worked_on_in_place(library):
    whole = paddle.full([10, 8], 2.0)
    softmax.exponentials(library, paddle.ones([2, 8]), whole[3:5], None, 1e-12)
    assert (whole.numpy() != 2).all(1).nonzero()[0].tolist() == [3, 4]


AFTER_A_FORK = """
import os
from tests.unit.ops.test_softmax import update_of_ones
expected = update_of_ones()
child = os.fork()
if child == 0:
    os._exit(update_of_ones() != expected)
assert os.waitpid(child, 0)[1] == 0
"""


def update_of_ones() -> list:
    weight, velocity, ones = paddle.ones([300, 8]), paddle.zeros([300, 8]), paddle.ones([300, 8])
    softmax.threads = lambda: 3
    softmax.update(load_library(), weight, velocity, paddle.arange(300), ones, ones[:, :1].contiguous(), 0.1, 0.9, 0.1)
    return weight.tolist()


def test_a_forked_process_has_threads_of_its_own(library, repository):
    process = subprocess.run([sys.executable, "-c", AFTER_A_FORK], cwd=repository, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
