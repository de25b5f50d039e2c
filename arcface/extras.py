"""Instructions to install the extras of pyproject.toml: packages that only some machines need."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from arcface.errors import UserError

PACKAGE = "arcface-paddle"
# For a checkout that is not installed.
REQUIREMENTS = {"cpu": "requirements.txt", "gpu": "requirements-gpu.txt", "engines": "requirements-engines.txt"}


def how_to_install(extra: str) -> str:
    """Return how to install the extra "cpu", "gpu" or "engines": the pip command for this installation."""
    if extra == "engines" and sys.version_info >= (3, 13):
        return "use Python 3.12 or older: paddle2onnx has no wheel for this version"
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return f"run: pip install -r {REQUIREMENTS[extra]}"
    return f"run: pip install '{PACKAGE}[{extra}]'"


def how_to_install_base() -> str:
    """Return how to install what every machine needs, without a change of the installed Paddle."""
    return how_to_install("gpu" if find_spec("paddle") and _is_for_gpus() else "cpu")


def _is_for_gpus() -> bool:
    import paddle

    return paddle.device.is_compiled_with_cuda()


def paddle_not_installed() -> UserError:
    """Return the error that says which extra installs Paddle."""
    return UserError(
        f"PaddlePaddle is not installed; for CPU only {how_to_install('cpu')}; with an NVIDIA GPU {how_to_install('gpu')}"
    )
