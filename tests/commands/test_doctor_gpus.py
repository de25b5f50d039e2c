"""The doctor on machines with GPUs, of which stand-ins tell; and links to NVIDIA's libraries."""

import ctypes
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import paddle
import pytest

from arcface.doctor import gpus, libraries, ranks, software
from arcface.doctor.libraries import library_versions, make_links, pairs_without_peer_access
from arcface.errors import UserError
from arcface.io.report import Report
from arcface.system import hardware, wheel
from arcface.system.hardware import Gpu


@pytest.fixture
def printed(capsys, monkeypatch):
    """Returns a function that runs a part of the doctor on GPUs of these compute capabilities, and returns text and findings."""
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)

    def call(examine, capabilities: list[str], *arguments) -> tuple[str, int]:
        monkeypatch.setattr(hardware, "gpus", lambda: [Gpu("NVIDIA X", one, 40 * 2**30) for one in capabilities])
        report = Report()
        examine(report, *arguments)
        return re.sub(r"\n {16}(?!->)", " ", capsys.readouterr().out), report.findings

    return call


def test_each_gpu_is_a_line_and_one_without_code_a_finding(printed, monkeypatch):
    monkeypatch.setattr(wheel.paddle, "__version__", "2.6.2")
    monkeypatch.setattr(wheel.paddle.version, "cuda", lambda: "11.8")
    monkeypatch.setattr(wheel.paddle.version, "cudnn", lambda: "8.6.0")
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    text, findings = printed(gpus.examine_gpus, ["8.0", "9.0"])
    assert text.splitlines() == [
        "GPU 0           NVIDIA X, compute capability 8.0, 40 GiB",
        "GPU 1           NVIDIA X, compute capability 9.0, 40 GiB",
        "                -> this Paddle, for CUDA 11.8, cuDNN 8.6.0, has no code for 9.0: install Paddle 3 for CUDA 12"
        " from Paddle's own package index, as in docs/install_en.md",
    ]
    assert findings == 1


def test_a_paddle_for_gpus_that_finds_none_is_a_finding(printed, monkeypatch):
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    text, findings = printed(gpus.examine_gpus, [])
    assert "built for GPUs and finds none" in text and findings == 1


def test_a_gpu_that_fails_is_one_finding_and_the_rest_is_examined_on_the_cpu(printed, monkeypatch):
    def fail(_):
        raise UserError("gpu:0, NVIDIA X: the first sum failed")

    chosen = []
    monkeypatch.setattr(software, "choose_device", fail)
    monkeypatch.setattr(paddle, "set_device", chosen.append)
    monkeypatch.setattr(software, "examine_libraries", None)  # cuDNN may end the process
    text, findings = printed(software.examine_software, ["8.0"], "auto", "paddle")
    assert "-> gpu:0, NVIDIA X: the first sum failed" in text and "\ndevice          cpu\n" in text
    assert (chosen, findings) == (["cpu"], 1)


@pytest.mark.parametrize(
    "count, without, override, said",
    [
        (1, None, None, "libraries       driver 535.1, cuDNN 8.6.0, NCCL not found\n"),
        (2, [], None, "\npeer access     between all GPUs\n"),
        (2, None, None, "\npeer access     unknown\n"),
        (2, [(0, 1), (1, 0)], None, "\npeer access     none between GPUs 0-1, 1-0\n"),
        (1, None, "1", "-> NVIDIA_TF32_OVERRIDE=1 may force TF32 on head, loss and verification too: unset it\n"),
    ],
)
def test_libraries_and_peer_access_are_told(printed, monkeypatch, count, without, override, said):
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: "535.1")
    monkeypatch.setattr(gpus, "library_versions", lambda: {"cuDNN": "8.6.0", "NCCL": "not found"})
    monkeypatch.setattr(gpus, "pairs_without_peer_access", lambda _: without)
    if override:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    text, findings = printed(gpus.examine_libraries, ["8.0"] * count)
    assert said in text and findings == bool(override)


def test_the_ranks_of_a_run_on_one_gpu_are_tried_on_all(printed, monkeypatch):
    asked = []
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)
    monkeypatch.setattr(ranks, "gpus", lambda: [None, None])
    monkeypatch.setattr(ranks, "round_trip", lambda *arguments: asked.append(arguments))
    printed(ranks.examine_ranks, [], "gpu:1")
    assert asked == [("gpu", None, ranks.SECONDS)]


DRIVER = "NVRM version: NVIDIA UNIX {} 535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version:  gcc version 11.4.0\n"


@pytest.mark.parametrize(
    "content, version",
    [
        (DRIVER.format("x86_64 Kernel Module "), "535.104.05"),
        (DRIVER.format("Open Kernel Module for x86_64 "), "535.104.05"),
        ("", "unknown"),
    ],
)
def test_the_driver_is_told(monkeypatch, tmp_path, content, version):
    (tmp_path / "version").write_text(content)
    monkeypatch.setattr(hardware, "NVIDIA_DRIVER", tmp_path / "version")
    assert hardware.nvidia_driver() == version


# Stand-ins for NVIDIA's libraries: the versions and the access that they tell, as their headers define it.
LIBRARIES = {
    "libcudnn.so.8": "unsigned long cudnnGetVersion() { return 8600; }",
    "libcublas.so.11": "int cublasGetProperty(int part, int *value) { *value = (int[]){11, 11, 3}[part]; return 0; }",
    "libnccl.so.2": "int ncclGetVersion(int *value) { *value = 22105; return 0; }",
    "libcuda.so.1": "int cuInit(unsigned flags) { return 0; }"
    " int cuDeviceCanAccessPeer(int *value, int one, int other) { *value = one < other; return 0; }",
}


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """A directory nvidia/ as NVIDIA's pip packages make it, and the loader, which finds what is there."""
    if not (compiler := shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    for name, code in LIBRARIES.items():
        directory = tmp_path / "nvidia" / name.removeprefix("lib").partition(".")[0] / "lib"
        directory.mkdir(parents=True)
        (directory / "__init__.py").touch()
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", directory / name]
        subprocess.run(command, input=code, text=True, check=True, timeout=60)
    load = ctypes.CDLL

    def found(name: str) -> ctypes.CDLL:
        for file in tmp_path.glob(f"nvidia/*/lib/{name}"):
            return load(str(file))
        raise OSError(name)

    monkeypatch.setattr(libraries.ctypes, "CDLL", found)
    return tmp_path / "nvidia"


def test_versions_and_peer_access_are_read_from_the_libraries(nvidia):
    assert library_versions() == {"cuDNN": "8.6.0", "cuBLAS": "11.11.3", "NCCL": "2.21.5"}
    assert pairs_without_peer_access(2) == [(1, 0)]
    shutil.rmtree(nvidia)
    assert library_versions() == {"cuDNN": "not found", "cuBLAS": "not found", "NCCL": "not found"}
    assert pairs_without_peer_access(2) is None


def test_links_are_made_beside_versioned_libraries_and_only_there(tmp_path):
    nvidia = tmp_path / "nvidia"
    for file in ("cudnn/lib/libcudnn.so.8", "cudnn/lib/libcudnn_ops_infer.so.8", "nvrtc/lib/libnvrtc.so.11.2", "other/lib/x.py"):
        (nvidia / file).parent.mkdir(parents=True, exist_ok=True)
        (nvidia / file).write_text(file)
    (nvidia / "cudnn/lib/libcudnn.so").symlink_to("libcudnn.so.7")  # of a version that was replaced
    (nvidia / "nccl/lib").mkdir(parents=True)
    for name in ("libnccl.so", "libnccl.so.2"):
        (nvidia / "nccl/lib" / name).write_text(name)
    for _ in range(2):
        assert make_links(nvidia) == [nvidia / "cudnn/lib", nvidia / "nccl/lib", nvidia / "nvrtc/lib"]
    links = {str(file.relative_to(nvidia)): file.readlink().name for file in nvidia.rglob("*") if file.is_symlink()}
    assert links == {
        "cudnn/lib/libcudnn.so": "libcudnn.so.8",
        "cudnn/lib/libcudnn_ops_infer.so": "libcudnn_ops_infer.so.8",
        "nvrtc/lib/libnvrtc.so": "libnvrtc.so.11.2",
    }


def test_the_command_prints_the_line_to_set_or_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(libraries, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="contains no package of NVIDIA's; install them, as in docs/install_en.md"):
        libraries.main()
    monkeypatch.setattr(libraries, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(UserError, match="contains no libraries"):
        libraries.main()
    (tmp_path / "a" / "lib").mkdir(parents=True)
    (tmp_path / "a" / "lib" / "liba.so.1").touch()
    libraries.main()
    assert capsys.readouterr().out == f"export LD_LIBRARY_PATH={tmp_path}/a/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"


def test_the_command_ends_in_one_line_where_nothing_is_installed(repository):
    done = subprocess.run(
        [sys.executable, "-S", "-m", "arcface.doctor.libraries"], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
