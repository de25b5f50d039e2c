"""The first kernels on a GPU: what a machine lacks, a library or code for the card, is found and explained by them.

Paddle opens NVIDIA's libraries when an operation first needs them, and its errors name neither the card nor the remedy.
"""

import re
import subprocess
import sys
from collections.abc import Callable

import paddle
from paddle.nn.functional import conv2d

from arcface.errors import UserError
from arcface.system.hardware import gpus
from arcface.system.wheel import built_for, wheel_for

# What Paddle raises for errors of CUDA, from a binding, and without memory; and a load of cuDNN that hangs.
FAILURES = (RuntimeError, OSError, SystemError, MemoryError, subprocess.TimeoutExpired)

# They need cuDNN's own libraries, code for the GPU, cuBLAS, and cuDNN. Results are read: a kernel runs later than it is queued.
FIRST_KERNELS: dict[str, Callable[[], object]] = {
    "load of cuDNN": lambda: _load_cudnn(),
    "first sum": lambda: (paddle.ones([8]) + paddle.ones([8])).numpy(),
    "first product": lambda: (paddle.ones([8, 8]) @ paddle.ones([8, 8])).numpy(),
    "first convolution": lambda: conv2d(paddle.ones([1, 8, 8, 8]), paddle.ones([8, 8, 3, 3])).numpy(),
}

# What errors say, in small letters, and what to do. The first that is found counts.
ADVICE = {
    r"dynamic library|cannot load \w+ shared library|cannot open shared object": "put the directory of {library} on"
    " LD_LIBRARY_PATH; for NVIDIA's pip packages, python -m arcface.doctor.libraries makes links and prints the line to set",
    r"no kernel image|cuda error\(209\)": "this Paddle has no code for compute capability {capability}: install {wheel}",
    r"out of memory|resourceexhausted|alloc_failed|cuda error\(2\)": "other processes hold the memory of this GPU (nvidia-smi lists"
    " them): end them, or choose another with --device gpu:N",
    r"driver version is insufficient|cuda error\((35|803|804)\)": "the NVIDIA driver is too old for this Paddle: install a newer"
    " driver, or a Paddle for an older CUDA",
    r"busy or unavailable|cuda error\(46\)": "another process has this GPU for itself (nvidia-smi lists it): end it, or"
    " choose another with --device gpu:N",
}
OTHERWISE = "check that driver, CUDA and cuDNN fit together (docs/install_en.md), or pass --device cpu"

_CUDNN_VERSION = """
import ctypes
try:
    cudnn = ctypes.CDLL("libcudnn.so")
except OSError:
    pass
else:
    cudnn.cudnnGetVersion()
"""


def run_first_kernels(device: str) -> None:
    """Run the first kernels on "gpu:0"..., Paddle's present device.

    Raises UserError if one fails: the GPU, what Paddle is built for, what failed, and what to do.
    """
    card, capability, doing = device, "?", "start"
    try:
        gpu = gpus()[int(device.removeprefix("gpu:"))]
        card, capability = f"{device}, {gpu.name} of compute capability {gpu.capability}", gpu.capability
        for name, kernel in FIRST_KERNELS.items():
            doing = name
            kernel()
    except FAILURES as error:
        said = telling_line(error)
        advice = next((todo for pattern, todo in ADVICE.items() if re.search(pattern, said.lower())), OTHERWISE)
        todo = advice.format(library=_library(said), capability=capability, wheel=wheel_for(capability))
        built = f"paddlepaddle {paddle.__version__} for {built_for()}"
        raise UserError(f"{card}: the {doing} failed with {built} ({said}); {todo}") from error


def telling_line(error: BaseException) -> str:
    """Return what an error of Paddle's says, in one line without the C++ traceback before it and the hints after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for pattern in (r"Out of memory", r"\w*Error: \S", r"\(\w+\) \S"):
        if telling := [line for line in lines if re.match(pattern, line)]:
            return telling[0][:300]
    return lines[-1][:300] if lines else type(error).__name__


def _library(said: str) -> str:
    """Return the name of the library that could not be opened, as Paddle opens it."""
    for pattern in (r"(lib\w+\.so[.\w]*): cannot open", r"(lib\w+\.so(?:\.\w+)*)"):
        if name := re.search(pattern, said):
            return name[1]
    name = re.search(r"[Cc]annot load (\w+) shared library", said)
    return f"lib{name[1]}.so" if name else "the library"


def _load_cudnn() -> None:
    """Try the load of cuDNN in a process of its own: version 8 aborts the process if it does not find a library of its own.

    Where Paddle finds cuDNN by another way, there is nothing to try.
    """
    command = [sys.executable, "-c", _CUDNN_VERSION]
    tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if tried.returncode < 0:
        raise RuntimeError(tried.stderr.strip() or f"cuDNN ends the process with signal {-tried.returncode}")
