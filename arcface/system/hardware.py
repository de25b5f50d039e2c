"""Processor, memory, GPUs and control groups of this machine, and benchmarks of its arithmetic. Read only."""

import os
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from arcface.system.card import card_use

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
CGROUP_ROOT, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class CgroupLimits(NamedTuple):
    """Limits that the container or batch system sets; None means no limit."""

    cores: float | None
    memory: int | None  # bytes


class DeviceMemory(NamedTuple):
    """Memory of a device.

    total, available: bytes. owner: whose memory it is, as messages call it.
    """

    total: int
    available: int
    owner: str


class Gpu(NamedTuple):
    """A GPU. capability: its compute capability, such as "8.6". memory: bytes."""

    name: str
    capability: str
    memory: int


def processor() -> str:
    """Return the processor's name."""
    name = _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    return " ".join(name.split())


def memory() -> tuple[int, int] | None:
    """Return the machine's total and available memory in bytes; None if the system does not report it."""
    total, available = (_field("/proc/meminfo", name) for name in ("MemTotal", "MemAvailable"))
    return (int(total.split()[0]) * 1024, int(available.split()[0]) * 1024) if total and available else None


def resident_memory() -> int:
    """Return the resident memory of this process in bytes; 0 if the system does not report it."""
    return int(_field("/proc/self/status", "VmRSS").partition(" ")[0] or 0) * 1024


def device_memory(device: str) -> DeviceMemory | None:
    """Return the memory of a GPU or, for "cpu", of this machine within the limits of its control groups; None if unknown."""
    if device != "cpu":
        gpu, use = paddle.device.cuda.get_device_properties(device), card_use(device)
        free = use.free if use else gpu.total_memory - paddle.device.cuda.memory_reserved(device)
        return DeviceMemory(gpu.total_memory, min(free, gpu.total_memory), f"the {gpu.name}")
    if not (machine := memory()):
        return None
    total, available = machine
    limits = [(limit, max(0, limit - used)) for limit, used in _cgroup_memory(CGROUP_ROOT, OWN_CGROUPS) if limit < total]
    if not limits:
        return DeviceMemory(total, available, "this machine's memory")
    return DeviceMemory(min(limits)[0], min(available, *(left for _, left in limits)), "the memory that its control group allows")


def cgroup_limits(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> CgroupLimits:
    """Return the tightest limits of this process's control groups and their parents, version 1 or 2."""
    cores = []
    for directory in _cgroups(root, own):
        quota, _, period = _text(directory / "cpu.max").partition(" ")
        quota, period = quota or _text(directory / "cpu.cfs_quota_us"), period or _text(directory / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # "max" or -1 mean no limit
            cores.append(int(quota) / int(period))
    return CgroupLimits(min(cores, default=None), min((limit for limit, _ in _cgroup_memory(root, own)), default=None))


def _cgroups(root: Path, own: Path) -> Iterator[Path]:
    """Yield the directories of this process's control groups and their parents."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        group = root / controllers / path.lstrip("/")  # version 2 has one tree and an empty list of controllers
        yield from (directory for directory in (group, *group.parents) if directory.is_relative_to(root))


def _cgroup_memory(root: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of each group with a limit; cached file pages that the kernel can drop do not count as use."""
    for directory in _cgroups(root, own):
        limit = _text(directory / "memory.max") or _text(directory / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < 2**62:  # version 1 writes nearly 2**63 for no limit
            used = _text(directory / "memory.current") or _text(directory / "memory.usage_in_bytes")
            numbers = dict(line.split()[:2] for line in _text(directory / "memory.stat").splitlines() if " " in line)
            droppable = numbers.get("total_inactive_file") or numbers.get("inactive_file") or 0
            yield int(limit), int(used or 0) - int(droppable)


def gpu_count() -> int:
    """Return how many GPUs Paddle can use."""
    if not paddle.device.is_compiled_with_cuda():
        return 0
    try:
        return paddle.device.cuda.device_count()
    except (OSError, RuntimeError):  # CUDA errors: no GPU is visible, or the driver is too old
        return 0


def gpus() -> list[Gpu]:
    """Return the GPUs that Paddle can use."""
    found = map(paddle.device.cuda.get_device_properties, range(gpu_count()))
    return [Gpu(gpu.name, f"{gpu.major}.{gpu.minor}", gpu.total_memory) for gpu in found]


def has_nvidia_driver() -> bool:
    """Whether an NVIDIA driver is loaded, whether or not this Paddle can use it."""
    return NVIDIA_DRIVER.exists()


def nvidia_driver() -> str:
    """Return the version of the NVIDIA driver that is loaded, or "unknown"."""
    found = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)\s", _text(NVIDIA_DRIVER))
    return found[1] if found else "unknown"


def gemm_speed(size: int) -> tuple[float, float]:
    """Return the speed of float32 [size, size] matrix products in FLOP/s: with Paddle on its current device, and with NumPy."""
    x = paddle.rand([size, size])
    y = np.random.default_rng(0).random((size, size), np.float32)
    # Reading an element waits for the product, on a GPU too.
    seconds = _best_seconds(lambda: (x @ x)[0, 0].item(), lambda: y @ y)
    return 2 * size**3 / seconds[0], 2 * size**3 / seconds[1]


def sum_speed(size: int) -> tuple[float, float]:
    """Return the speed of sums of two float32 [size] on the CPU, in bytes read and written per second, and page faults per page
    of the result: about 0 if malloc keeps freed memory, 1 if it returns it to the kernel.
    """
    x, y = paddle.ones([size]), paddle.ones([size])
    (seconds,) = _best_seconds(lambda: x + y)  # the first sums also allocate the memory that malloc may keep
    before, repeats = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, 4
    for _ in range(repeats):
        x + y
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return 12 * size / seconds, faults * resource.getpagesize() / (4 * size * repeats)


def format_bytes(count: float) -> str:
    """Return a number of bytes with a readable unit, such as "1.5 KiB"."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:,.0f} {units[0]}" if count >= 100 else f"{count:.3g} {units[0]}"


def nearest_existing(directory: Path) -> Path:
    """Return the directory if it exists, else its nearest existing parent."""
    while not os.path.lexists(directory) and directory != directory.parent:
        directory = directory.parent
    return directory


def _best_seconds(*runs: Callable[[], object], budget: float = 0.5) -> list[float]:
    """Return each function's shortest time; they are called in turn until the budget, in seconds, is spent."""
    for run in runs:
        run()
    best, ends = [float("inf")] * len(runs), time.perf_counter() + budget
    while time.perf_counter() < ends:
        for position, run in enumerate(runs):  # in turn, so that other load slows all of them alike
            started = time.perf_counter()
            run()
            best[position] = min(best[position], time.perf_counter() - started)
    return best


def _field(file: str, name: str) -> str:
    """Return the value of the first line "name: value", or ""."""
    lines = (line.partition(":") for line in _text(Path(file)).splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
