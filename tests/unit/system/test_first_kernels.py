"""What the first kernels on a GPU raise is one line that names the card, what Paddle is built for, and what to do."""

import os
import shutil
import subprocess
from types import SimpleNamespace

import paddle
import pytest

from arcface.errors import UserError
from arcface.system import wheel
from arcface.system.first_kernels import FIRST_KERNELS, run_first_kernels
from arcface.system.wheel import has_code_for


@pytest.fixture
def card(monkeypatch):
    """Returns a function that makes Paddle find two GPUs of a compute capability."""

    def found(capability: str) -> None:
        major, minor = map(int, capability.split("."))
        gpu = SimpleNamespace(name="NVIDIA X", major=major, minor=minor, total_memory=40 * 2**30)
        monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(paddle.device.cuda, "get_device_properties", lambda _: gpu)

    return found


# What Paddle 2.6 and 3 write; with TRACEBACK the long form, which FLAGS_call_stack_level=2 gives.
TRACEBACK = "\n----\nC++ Traceback (most recent call last):\n----\n0   phi::Conv()\n\n----\nError Message Summary:\n----\n"
NO_CODE = "CUDA error(209), no kernel image is available for execution on the device. \n  [Hint: ...] (at /paddle/x.cu:1)"
CUBLAS = (
    "The third-party dynamic library (libcublas.so) that Paddle depends on is not configured correctly. (error code is"
    " libcublas.so: cannot open shared object file: No such file or directory)\n  Suggestions:\n  1. Check if the third-party"
    " dynamic library (e.g. CUDA, CUDNN) is installed correctly and its version is matched with paddlepaddle you installed."
)
CUDNN = "Cannot load cudnn shared library. Cannot invoke method cudnnCreate.\n  [Hint: cudnn_dso_handle should not be null.]"
FULL = "\n\nOut of memory error on GPU 0. Cannot allocate 2.0MB memory on GPU 0, 39GB are allocated.\n\nPlease check whether"
NVRTC = "Could not load library libcudnn_ops_infer.so.8. Error: libnvrtc.so: cannot open shared object file: No such file"
LINKS = "python -m arcface.doctor.libraries"
HELD = "other processes hold the memory of this GPU (nvidia-smi lists them)"
PADDLE_3 = "no code for compute capability 9.0: install Paddle 3 for CUDA 12"
OTHERWISE = "; check that driver, CUDA and cuDNN fit together"


@pytest.mark.parametrize(
    "kernel, capability, error, parts",
    [
        (
            "first sum",
            "9.0",
            OSError(f"(External) {NO_CODE}"),
            ["((External) CUDA error(209)", PADDLE_3],
        ),
        ("first sum", "9.0", OSError(f"{TRACEBACK}ExternalError: {NO_CODE}"), ["(ExternalError: CUDA error(209)", PADDLE_3]),
        (
            "first sum",
            "6.1",
            OSError(f"(External) {NO_CODE}"),
            ["no code for compute capability 6.1: install paddlepaddle-gpu"],
        ),
        ("first product", "8.0", RuntimeError(f"(PreconditionNotMet) {CUBLAS}"), ["directory of libcublas.so on LD_LIBR", LINKS]),
        (
            "first convolution",
            "8.0",
            RuntimeError(f"(PreconditionNotMet) {CUDNN}"),
            ["directory of libcudnn.so on LD_LIBR", LINKS],
        ),
        (
            "first convolution",
            "8.0",
            RuntimeError(f"{TRACEBACK}PreconditionNotMetError: {CUDNN}"),
            ["(PreconditionNotMetError: C"],
        ),
        ("load of cuDNN", "8.0", RuntimeError(NVRTC), ["the directory of libnvrtc.so on LD_LIBRARY_PATH", LINKS]),
        (
            "first sum",
            "8.0",
            MemoryError(f"{TRACEBACK}ResourceExhaustedError: {FULL}"),
            ["(Out of memory error on GPU", HELD],
        ),
        ("first sum", "8.0", OSError("(External) CUDA error(2), out of memory. "), [HELD]),
        ("first product", "8.0", OSError("(External) CUBLAS error(3), CUBLAS_STATUS_ALLOC_FAILED"), [HELD]),
        ("first sum", "8.0", OSError("(External) CUDA error(35), CUDA driver version is insufficient"), ["install a newer driver"]),
        (
            "first sum",
            "8.0",
            OSError("(External) CUDA error(46), all CUDA-capable devices are busy or unavailable"),
            ["for itself"],
        ),
        ("first convolution", "8.0", OSError("(External) CUDNN error(1), CUDNN_STATUS_NOT_INITIALIZED."), [OTHERWISE]),
        ("first sum", "8.0", SystemError("something new"), [f"(something new){OTHERWISE}"]),
        ("load of cuDNN", "8.0", subprocess.TimeoutExpired("python", 300), ["timed out after 300", OTHERWISE]),
        ("first sum", "8.0", MemoryError(), [f"(MemoryError){OTHERWISE}"]),
    ],
)
def test_what_a_first_kernel_raises_is_one_line_that_says_what_to_do(card, monkeypatch, kernel, capability, error, parts):
    card(capability)

    def fail():
        raise error

    monkeypatch.setitem(FIRST_KERNELS, kernel, fail)
    with pytest.raises(UserError) as raised:
        run_first_kernels("gpu:1")
    said = str(raised.value)
    built = f"paddlepaddle {paddle.__version__} for CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()} ("
    assert said.startswith(f"gpu:1, NVIDIA X of compute capability {capability}: the {kernel} failed with {built}")
    assert "\n" not in said and [part for part in parts if part not in said] == []


def test_each_first_kernel_runs(card, monkeypatch):
    card("8.0")
    ran = []
    for name, run in FIRST_KERNELS.items():
        monkeypatch.setitem(FIRST_KERNELS, name, lambda name=name, run=run: (run(), ran.append(name)))
    run_first_kernels("gpu:0")
    assert ran == ["load of cuDNN", "first sum", "first product", "first convolution"]


def test_a_cudnn_that_ends_the_process_is_an_error(card, monkeypatch, tmp_path):
    if not (compiler := shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    code = f'#include <stdio.h>\n#include <stdlib.h>\nint cudnnGetVersion() {{ fputs("{NVRTC}", stderr); abort(); }}\n'
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / "libcudnn.so"]
    subprocess.run(command, input=code, text=True, check=True, timeout=60)
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join([str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")]))
    card("8.0")
    with pytest.raises(
        UserError, match="the load of cuDNN failed .*libnvrtc.so: cannot open .*directory of libnvrtc.so on LD_LIBRARY"
    ):
        run_first_kernels("gpu:0")


@pytest.mark.parametrize(
    "version, cuda, archs, known",
    [
        ("2.6.2", "11.8", None, {"6.0": False, "6.1": True, "7.5": True, "8.0": True, "8.9": True, "9.0": False, "12.0": False}),
        ("2.6.2", "12.0", None, {"8.0": None}),
        ("3.3.1", "12.9", [70, 75, 80, 86, "90a", 100], {"6.1": False, "8.9": True, "9.0": True, "10.3": True, "12.0": None}),
        ("3.3.1", "12.9", [], {"8.0": None}),
    ],
)
def test_code_for_a_card_is_known_from_what_the_build_lists(monkeypatch, version, cuda, archs, known):
    listed = {} if archs is None else {"cuda_archs": lambda: archs}
    monkeypatch.setattr(wheel.paddle, "__version__", version)
    monkeypatch.setattr(wheel.paddle, "version", SimpleNamespace(cuda=lambda: cuda, **listed))
    assert {capability: has_code_for(capability) for capability in known} == known
