"""Commands that install missing packages: the extras of pyproject.toml."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from arcface.errors import UserError

PACKAGE = "arcface-paddle"
# Used in a checkout that is not installed.
REQUIREMENTS = {"cpu": "requirements.txt", "gpu": "requirements-gpu.txt", "engines": "requirements-engines.txt"}


def how_to_install(extra: str) -> str:
    """Return how to install an extra, "cpu", "gpu" or "engines": the pip command for this installation."""
    if extra == "engines" and sys.version_info >= (3, 13):
        return "use Python 3.12 or older: paddle2onnx has no wheel for this one"
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return f"run: pip install -r {REQUIREMENTS[extra]}"
    return f"run: pip install '{PACKAGE}[{extra}]'"


def how_to_install_base() -> str:
    """Return how to install what every machine needs, without replacing the installed Paddle."""
    return how_to_install("gpu" if find_spec("paddle") and _is_for_gpus() else "cpu")


def _is_for_gpus() -> bool:
    import paddle

    return paddle.device.is_compiled_with_cuda()


def no_paddle() -> UserError:
    """Return the error for a missing Paddle, with the extra to install."""
    return UserError(
        f"PaddlePaddle is not installed; for the extra cpu {how_to_install('cpu')};"
        f" for the extra gpu, on a machine with an NVIDIA GPU, {how_to_install('gpu')}"
    )
