"""Software, devices, ranks, speed and limits."""

import math
import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np
import paddle
from paddle import inference

import arcface
from arcface.config import TrainConfig
from arcface.data.workers import SLOTS_PER_WORKER
from arcface.distributed.process_group import unused_launcher, world_size
from arcface.distributed.self_check import round_trip
from arcface.extras import how_to_install, how_to_install_base
from arcface.inference.engines import candidates
from arcface.io.images import SIZE
from arcface.io.report import Report
from arcface.system import hardware
from arcface.system.device import choose_device
from arcface.system.hardware import size
from arcface.system.startup import cores, ranks_here, threads, why_memory_is_not_kept
from arcface.training.memory import check_memory, estimate

RANKS_SECONDS = 60  # of patience with the ranks
MIN_OPEN_FILES = 1024  # Linux's usual limit
OPTIONAL = ("openvino", "onnxruntime", "paddle2onnx")


def examine_software(report: Report, device: str, engine: str) -> None:
    """Report versions and devices, and make `device` Paddle's, or the CPU if that cannot be."""
    report.line("arcface", f"{arcface.__version__}{_commit()}, Python {platform.python_version()}, {platform.platform()}")
    with_cuda = paddle.device.is_compiled_with_cuda()
    cuda = f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}" if with_cuda else "no CUDA"
    mkl = "MKL" if paddle.version.mkl() == "ON" else "no MKL"
    onednn = "oneDNN" if _has_onednn() else "no oneDNN"
    report.line("paddle", f"{paddle.__version__} ({paddle.version.commit[:7]}), built with {cuda}, {mkl}, {onednn}")
    missing = [name for name in ("visualdl", "tqdm", "matplotlib", "jinja2", "scikit-learn") if not _version(name)]
    needed = [f"{name} {_version(name)}" for name in ("visualdl",) if name not in missing]
    optional = [f"{name} {_version(name)}" if _version(name) else f"no {name}" for name in OPTIONAL]
    report.line(
        "packages",
        ", ".join([f"numpy {np.__version__}", f"opencv {cv2.__version__}", *needed, *optional]),
        f"not installed: {', '.join(missing)}; {how_to_install_base()}" if missing else None,
    )
    gpus = hardware.gpus()
    advice = None
    if with_cuda and not gpus:
        advice = "this Paddle is built for GPUs and finds none: see nvidia-smi, and in Docker give --gpus all"
    elif not with_cuda and hardware.has_nvidia_driver():
        advice = f"this machine has an NVIDIA driver, and Paddle is built for CPU; {how_to_install('gpu')}"
    report.line("GPUs", ", ".join(f"{name} ({size(total)})" for name, total in gpus) or "none", advice)
    paddle.set_device("cpu")
    chosen = "cpu"
    with report.examining("device"):
        chosen = choose_device(device)
    report.line("device", chosen)
    with report.examining("engine"):
        report.line("engine", candidates(engine)[0])


def examine_ranks(report: Report, device: str) -> None:
    """Report a round trip over the launcher's ranks or, without a launcher, over some that are started for it."""
    launched = "PADDLE_LOCAL_SIZE" in os.environ
    ranks = None
    if not launched and (device == "cpu" or len(hardware.gpus()) < 2):
        device, ranks = "cpu", 2
    with report.examining("ranks"):
        found = round_trip(device, ranks, RANKS_SECONDS)
        if found is None:  # this is another rank than 0
            return
        if found.ranks == 1:
            report.line("ranks", "1, alone")
            return
        wrong = f"wrong values from {', '.join(found.wrong)}: train with one rank, and report this" if found.wrong else None
        report.line(
            "ranks",
            f"{found.ranks} on {found.device.partition(':')[0]} over {found.backend}"
            f"{'' if launched else ', started for this test'}: {'' if wrong else 'right values, '}"
            f"all_reduce {1000 * found.small:.2g} ms for 4 B, {1000 * found.large:.2g} ms for 4 MiB",
            wrong,
            unused_launcher(),
        )


def examine_speed(report: Report) -> None:
    """Report processor, threads, and whether BLAS and malloc are as fast as the settings of system/startup.py make them."""
    quota = hardware.cgroup_limits().cores
    report.line(
        "CPU",
        f"{hardware.processor()}, {os.cpu_count()} cores, {cores()} usable{'' if quota is None else f', {quota:g} by cgroup'},"
        f" load {os.getloadavg()[0]:.1f}; threads of a rank: {threads()}",
        f"more threads than the cgroup's cores stall one another: set OMP_NUM_THREADS={max(1, int(quota / ranks_here()))}"
        if quota is not None and threads() * ranks_here() > max(quota, ranks_here())
        else None,
    )
    device = paddle.get_device()
    paddle.set_device("cpu")
    ours, theirs = hardware.product_speed(1024)
    setting = os.environ.get("MKL_DEBUG_CPU_TYPE")
    report.line(
        "GEMM",
        f"{ours / 1e9:.0f} GFLOP/s on the CPU (NumPy: {theirs / 1e9:.0f}), MKL_DEBUG_CPU_TYPE is {setting or 'not set'}",
        "Paddle's BLAS takes a slow path: see MKL_DEBUG_CPU_TYPE in arcface/system/startup.py" if ours < theirs / 2 else None,
    )
    speed, renewed = hardware.sum_speed(12_500_000)
    reason = why_memory_is_not_kept()
    report.line(
        "allocator",
        f"freed memory {'goes back to the kernel' if renewed > 0.5 else 'is kept'} ({reason or 'malloc is told to keep it'});"
        f" sums of 50 MB arrays: {speed / 1e9:.1f} GB/s",
        "every operation pays for page faults: see arcface/system/startup.py" if renewed > 0.5 else None,
    )
    paddle.set_device(device)
    if device != "cpu":
        report.line("GPU's GEMM", f"{hardware.product_speed(4096)[0] / 1e12:.1f} TFLOP/s on {device}")


def examine_limits(report: Report, batch_size: int, num_workers: int) -> None:
    """Report memory and open files, and what the batches of the workers take."""
    known, limit = hardware.memory(), hardware.cgroup_limits().memory
    if known:
        report.line("memory", f"{size(known[0])}, {size(known[1])} available" + (f", {size(limit)} by cgroup" if limit else ""))
    if num_workers:
        needed = SLOTS_PER_WORKER * num_workers * ranks_here() / world_size() * batch_size * 3 * SIZE * SIZE
        available = min(known[1] if known else math.inf, limit or math.inf)
        report.line(
            "workers",
            f"hold {size(needed)} of batches",
            "more than there is: take fewer --num_workers or a smaller --batch_size" if needed > available else None,
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 < soft < MIN_OPEN_FILES
    report.line(
        "open files",
        f"{soft:,} at most" if soft > 0 else "no limit",
        f"few: run ulimit -n {MIN_OPEN_FILES} before training" if few else None,
    )


def examine_memory(report: Report, config: TrainConfig, num_classes: int) -> None:
    """Report what a training takes of memory, and whether there is as much."""
    with report.examining("training"):
        device = paddle.get_device()
        warning = check_memory(config, num_classes, world_size(), ranks_here(), device)
        needed = estimate(config, num_classes, world_size(), device)
        parts = ", ".join(f"{name} {size(count)}" for name, count in needed._asdict().items())
        report.line("training", f"takes about {size(needed.total)} a rank: {parts}", warning)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Return the commit that this code is of, and whether it was changed since, where git knows."""
    directory = Path(arcface.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # An installed copy may lie in somebody else's repository.
        known = git("ls-files", "__init__.py") and git("describe", "--always", "--dirty=, changed", "--exclude=*")
    except (OSError, subprocess.TimeoutExpired):
        known = ""
    return f" ({known})" if known else ""


def _has_onednn() -> bool:
    config = inference.Config()
    config.enable_mkldnn()
    return config.mkldnn_enabled()
