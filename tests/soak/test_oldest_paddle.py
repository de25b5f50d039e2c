"""The core of the suite passes on the oldest Paddle that is supported, in an environment of its own.

OLDEST_PADDLE names another environment: `make test-gpu-wheel` passes that of the build for GPUs, which here computes on the CPU.
"""

import os
import subprocess

import pytest

CORE = [
    "tests/unit/system",
    "tests/unit/head",
    "tests/unit/backbones",
    "tests/unit/data",
    "tests/unit/training",
    "tests/ranks/test_training.py",
    "tests/ranks/test_partial_fc.py",
]


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
def test_the_core_passes_on_paddle_2_6(repository, start_process):
    chosen = os.environ.get("OLDEST_PADDLE")
    python = repository / (chosen or ".venv-2.6") / "bin" / "python"
    found = (
        subprocess.run([python, "-c", "import paddle; print(paddle.__version__)"], capture_output=True, text=True)
        if (python.exists())
        else None
    )
    if not found or found.returncode:
        assert not chosen, f"no Paddle in {chosen}"
        pytest.skip("no Paddle 2.6 in .venv-2.6; make test-all installs it where it has a wheel, up to Python 3.12")
    assert found.stdout.startswith("2.6."), found.stdout
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "OMP_NUM", "PYTHONPATH"))}
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-n", "2", "--dist", "loadfile", *CORE]
    process = start_process(command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    printed, _ = process.communicate(timeout=1400)
    print(printed)
    assert process.returncode == 0, printed
