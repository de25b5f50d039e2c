"""Hardware of this machine: memory, cores and their limits in containers, GPUs, and measured speed. Reading changes nothing."""

import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

MOUNTED, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class CgroupLimits(NamedTuple):
    """Limits of the container or batch system; None is no limit."""

    cores: float | None
    memory: int | None  # bytes


class Room(NamedTuple):
    """Memory in bytes: total, available, and what messages call it."""

    total: int
    available: int
    name: str


def processor() -> str:
    """Return the processor's name."""
    name = _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    return " ".join(name.split())


def memory() -> tuple[int, int] | None:
    """Return total and available memory of the machine in bytes; None if the system does not say."""
    total, available = (_field("/proc/meminfo", name) for name in ("MemTotal", "MemAvailable"))
    return (int(total.split()[0]) * 1024, int(available.split()[0]) * 1024) if total and available else None


def resident() -> int:
    """Return this process's resident memory in bytes; 0 if the system does not say."""
    return int(_field("/proc/self/status", "VmRSS").partition(" ")[0] or 0) * 1024


def room_on(device: str) -> Room | None:
    """Return the memory of a GPU, or for "cpu" of this machine within its control groups; None if unknown."""
    if device != "cpu":
        gpu = paddle.device.cuda.get_device_properties(device)
        return Room(gpu.total_memory, gpu.total_memory, f"the {gpu.name}")
    if not (known := memory()):
        return None
    total, available = known
    limits = [(limit, max(0, limit - used)) for limit, used in _memory_of_groups(MOUNTED, OWN_GROUPS) if limit < total]
    if not limits:
        return Room(total, available, "this machine's memory")
    return Room(min(limits)[0], min(available, *(left for _, left in limits)), "the memory that its control group allows")


def cgroup_limits(mounted: Path = MOUNTED, own: Path = OWN_GROUPS) -> CgroupLimits:
    """Return the tightest limits of this process's control groups (version 1 or 2) and of their parents."""
    cores = []
    for directory in _groups(mounted, own):
        quota, _, period = _text(directory / "cpu.max").partition(" ")
        quota, period = quota or _text(directory / "cpu.cfs_quota_us"), period or _text(directory / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # no limit is "max" or -1
            cores.append(int(quota) / int(period))
    return CgroupLimits(min(cores, default=None), min((limit for limit, _ in _memory_of_groups(mounted, own)), default=None))


def _groups(mounted: Path, own: Path) -> Iterator[Path]:
    """Yield the directories of this process's control groups and of their parents."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        group = mounted / controllers / path.lstrip("/")  # version 2 has a single tree and names no controllers here
        yield from (directory for directory in (group, *group.parents) if directory.is_relative_to(mounted))


def _memory_of_groups(mounted: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use in bytes of each group with a limit; pages of files that can be dropped do not count as used."""
    for directory in _groups(mounted, own):
        limit = _text(directory / "memory.max") or _text(directory / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < 2**62:  # version 1 writes nearly 2**63 for no limit
            used = _text(directory / "memory.current") or _text(directory / "memory.usage_in_bytes")
            numbers = dict(line.split()[:2] for line in _text(directory / "memory.stat").splitlines() if " " in line)
            droppable = numbers.get("total_inactive_file") or numbers.get("inactive_file") or 0
            yield int(limit), int(used or 0) - int(droppable)


def gpus() -> list[tuple[str, int]]:
    """Return name and memory in bytes of each GPU that Paddle can use."""
    if not paddle.device.is_compiled_with_cuda():
        return []
    found = map(paddle.device.cuda.get_device_properties, range(paddle.device.cuda.device_count()))
    return [(gpu.name, gpu.total_memory) for gpu in found]


def has_nvidia_driver() -> bool:
    """Whether the NVIDIA driver is loaded, whatever Paddle can use."""
    return os.path.exists("/proc/driver/nvidia/version")


def product_speed(size: int) -> tuple[float, float]:
    """Return the speed of float32 [size, size] products on Paddle's present device and with NumPy, in FLOP/s."""
    ours = paddle.rand([size, size])
    theirs = np.random.default_rng(0).random((size, size), np.float32)
    # Reading an element waits for the product, on a GPU too.
    seconds = _best_seconds(lambda: (ours @ ours)[0, 0].item(), lambda: theirs @ theirs)
    return 2 * size**3 / seconds[0], 2 * size**3 / seconds[1]


def sum_speed(size: int) -> tuple[float, float]:
    """Return the speed of sums of two float32 [size] on the CPU, and the share of the result's pages that the kernel provided anew.

    The speed is in bytes read and written a second. The share is about 0 if the allocator keeps freed memory, 1 if every sum gets
    new pages from the kernel.
    """
    x, y = paddle.ones([size]), paddle.ones([size])
    (seconds,) = _best_seconds(lambda: x + y)  # also allocates the memory that the process may keep
    before, repeats = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, 4
    for _ in range(repeats):
        x + y
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return 12 * size / seconds, faults * resource.getpagesize() / (4 * size * repeats)


def size(count: float) -> str:
    """Return a number of bytes in words, such as "1.5 KiB"."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:,.0f} {units[0]}" if count >= 100 else f"{count:.3g} {units[0]}"


def existing(directory: Path) -> Path:
    """Return the directory if it exists, else its nearest parent that does."""
    while not os.path.lexists(directory) and directory != directory.parent:
        directory = directory.parent
    return directory


def _best_seconds(*runs: Callable[[], object], budget: float = 0.5) -> list[float]:
    """Return the shortest time in seconds of each function, called in turn for `budget` seconds."""
    for run in runs:
        run()
    best, ends = [float("inf")] * len(runs), time.perf_counter() + budget
    while time.perf_counter() < ends:
        for position, run in enumerate(runs):  # in turn, so that other load on the machine affects them alike
            started = time.perf_counter()
            run()
            best[position] = min(best[position], time.perf_counter() - started)
    return best


def _field(file: str, name: str) -> str:
    """Return the value of the first line "name: value" of a file, or ""."""
    lines = (line.partition(":") for line in _text(Path(file)).splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
