"""The estimate of the memory of a training step is right."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux says how much of a process was in memory")

TOLERANCE = 0.15


@pytest.fixture
def ratio(repository):
    """Returns a function that trains two steps, given a number of classes and options, and returns estimate / measurement."""

    def measure(num_classes: int, options: str, timeout: int = 200) -> float:
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        command = [sys.executable, "tests/helpers/memory_worker.py", str(num_classes), "--num_workers=0", *options.split()]
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stderr
        estimated, measured = map(int, done.stdout.splitlines()[-1].split())
        return estimated / measured

    return measure


@pytest.mark.parametrize(
    "num_classes, options",
    [
        (1000, "--batch_size=32"),
        (1000, "--batch_size=128"),
        (1000, "--batch_size=16 --cpu_kernels=off"),
        (200_000, "--batch_size=32"),
    ],
)
def test_the_estimate_is_right_within_its_tolerance(ratio, num_classes, options):
    assert abs(ratio(num_classes, options) - 1) < TOLERANCE
