"""Process settings that must be made before Paddle is imported: home, BLAS path, allocator, threads.

`benchmarks/training_speed.py` shows what they gain. Variables that the user has set are left alone, but for the one
thread that Paddle's launcher gives each rank.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import io
import os
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

from arcface.extras import no_paddle
from arcface.system.home import use_temporary_home_if_needed
from arcface.system.processes import die_with_launcher

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt(3), from glibc's malloc.h


def start_paddle() -> None:
    """Set up this process for CPU arithmetic and import Paddle; no effect on results but rounding.

    To be called before anything imports Paddle. Under Paddle's launcher, this process will not outlive it.
    Raises UserError if Paddle is not installed.
    """
    if not importlib.util.find_spec("paddle"):
        raise no_paddle()
    if "PADDLE_LOCAL_SIZE" in os.environ:
        die_with_launcher()
    use_temporary_home_if_needed()
    _use_fast_blas_on_amd()
    _keep_freed_memory()
    _share_cores_between_ranks()
    with _sigterm_left_alone():
        _import_quietly("paddle")


def cores() -> int:
    """How many of the machine's cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many threads each process may use: its share of the cores, or what the user has set."""
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # OpenMP takes a list, by nesting level
    return int(outermost) if outermost.isdecimal() and int(outermost) else 1


def ranks_here() -> int:
    """How many ranks the launcher has started on this machine; 1 without a launcher."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", 1))


def _use_fast_blas_on_amd() -> None:
    # The MKL inside Paddle's wheels takes its slowest path on AMD processors unless told the instruction set (5: AVX2).
    try:
        with open("/proc/cpuinfo") as file:
            cpu = file.read(4096)
    except OSError:
        return
    if "AuthenticAMD" in cpu and " avx2" in cpu:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def why_memory_is_not_kept() -> str | None:
    """Return why `start_paddle` leaves freed memory to the C library, or None where it has it kept for the next operation."""
    chosen_by_user = [name for name in os.environ if name.startswith("MALLOC_") or name == "LD_PRELOAD"]
    if chosen_by_user:
        return f"{chosen_by_user[0]} is set"
    return None if platform.libc_ver()[0] == "glibc" else "the C library is not glibc"


def _keep_freed_memory() -> None:
    # glibc hands large buffers back to the kernel when they are freed; every operation then pays the page faults again.
    if why_memory_is_not_kept():
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _share_cores_between_ranks() -> None:
    # A thread per core in each rank would have the ranks wait for one another; Paddle's launcher gives each rank one
    # thread (OMP_NUM_THREADS=1), which leaves cores idle where there are fewer ranks than cores.
    launched = "PADDLE_LOCAL_SIZE" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1"
    if launched or "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // ranks_here()))


@contextlib.contextmanager
def _sigterm_left_alone() -> Iterator[None]:
    # Paddle installs a handler of SIGTERM that writes a C++ traceback. It may wait for ever for a lock that the code which it
    # interrupted holds, as of the allocator. A SIGTERM that comes meanwhile is kept for the handler from before.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # Python does not know of Paddle's
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _import_quietly(module: str) -> None:
    # Paddle warns of every thread count but 1; Paddle 3 asks everybody to install a compiler cache; and each step in
    # training mode it says that batch norm tracks its statistics.
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            importlib.import_module(module)
    finally:
        lines = said.getvalue().splitlines(keepends=True)
        sys.stderr.writelines(line for line in lines if "OMP_NUM_THREADS" not in line)
