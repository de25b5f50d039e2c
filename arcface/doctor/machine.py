"""Machine: speed of the processor, and limits of memory and open files against the needs of a training run."""

import math
import os
import resource

import paddle

from arcface.backbones.precision import check_precision
from arcface.config import TrainConfig
from arcface.data.workers import SLOTS_PER_WORKER
from arcface.distributed.process_group import world_size
from arcface.io.images import SIZE
from arcface.io.report import Report
from arcface.system import hardware
from arcface.system.hardware import format_bytes
from arcface.system.precision import tf32
from arcface.system.startup import FAST_BLAS, cores, ranks_here, threads, why_memory_is_not_kept
from arcface.training.memory import check_memory, estimate
from arcface.training.model import check_parts

MIN_OPEN_FILES = 1024  # Linux's usual limit


def examine_speed(report: Report) -> None:
    """Report processor, threads, and whether BLAS and malloc are as fast as the settings of system/startup.py make them."""
    quota = hardware.cgroup_limits().cores
    report.line(
        "CPU",
        f"{hardware.processor()}, {os.cpu_count()} cores, {cores()} usable{'' if quota is None else f', {quota:g} by cgroup'},"
        f" load {os.getloadavg()[0]:.1f}; threads per rank: {threads()}",
        f"more threads than the cgroup's cores slow one another down: set OMP_NUM_THREADS={max(1, int(quota / ranks_here()))}"
        if quota is not None and threads() * ranks_here() > max(quota, ranks_here())
        else None,
    )
    device = paddle.get_device()
    paddle.set_device("cpu")
    of_paddle, of_numpy = hardware.gemm_speed(1024)
    setting = os.environ.get("MKL_DEBUG_CPU_TYPE")
    report.line(
        "GEMM",
        f"{of_paddle / 1e9:.0f} GFLOP/s on the CPU (NumPy: {of_numpy / 1e9:.0f}), MKL_DEBUG_CPU_TYPE is {setting or 'not set'}",
        # With the setting there is nothing left to do: NumPy may still be faster, by AVX-512.
        "Paddle's BLAS uses a slow path: see MKL_DEBUG_CPU_TYPE in arcface/system/startup.py"
        if of_paddle < of_numpy / 2 and setting != FAST_BLAS
        else None,
    )
    speed, faults = hardware.sum_speed(12_500_000)
    reason = why_memory_is_not_kept()
    report.line(
        "allocator",
        f"{'returns freed memory to the kernel' if faults > 0.5 else 'keeps freed memory'} ({reason or 'set by arcface'});"
        f" sums of 50 MB arrays: {speed / 1e9:.1f} GB/s",
        "every operation pays for page faults: see arcface/system/startup.py" if faults > 0.5 else None,
    )
    paddle.set_device(device)
    if device != "cpu":
        full = hardware.gemm_speed(4096)[0]
        with tf32(True):
            fast = hardware.gemm_speed(4096)[0]
        report.line("GPU GEMM", f"{full / 1e12:.1f} TFLOP/s in float32 on {device}, {fast / 1e12:.1f} with TF32")


def examine_limits(report: Report, batch_size: int, num_workers: int) -> None:
    """Report memory and open files, and the memory that the workers' batches need."""
    machine, limit = hardware.memory(), hardware.cgroup_limits().memory
    if machine:
        total, free = map(format_bytes, machine)
        report.line("memory", f"{total}, {free} available" + (f", {format_bytes(limit)} by cgroup" if limit else ""))
    if num_workers:
        needed = SLOTS_PER_WORKER * num_workers * ranks_here() / world_size() * batch_size * 3 * SIZE * SIZE
        available = min(machine[1] if machine else math.inf, limit or math.inf)
        report.line(
            "workers",
            f"need {format_bytes(needed)} for batches",
            "more than is available: use fewer --num_workers or a smaller --batch_size" if needed > available else None,
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 < soft < MIN_OPEN_FILES
    report.line(
        "open files",
        f"{soft:,} at most" if soft > 0 else "no limit",
        f"too few: run ulimit -n {MIN_OPEN_FILES} before training" if few else None,
    )


def examine_memory(report: Report, config: TrainConfig, num_classes: int) -> None:
    """Report the memory that training needs, and whether it is available; or what training would refuse."""
    with report.examining("training"):
        device = paddle.get_device()
        check_precision(config.precision, bool(config.precision_emulation), device)
        check_parts(config, world_size())
        warning = check_memory(config, num_classes, world_size(), ranks_here(), device)
        needed = estimate(config, num_classes, world_size(), device)
        parts = ", ".join(f"{name} {format_bytes(count)}" for name, count in needed._asdict().items())
        report.line("training", f"needs about {format_bytes(needed.total)} a rank: {parts}", warning)
