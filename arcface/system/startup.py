"""Process settings that must precede the import of Paddle: home, BLAS path, allocator, threads.

`benchmarks/training_speed.py` measures their effect. Variables that the user has set are kept, except the single thread
that Paddle's launcher sets for each rank.
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

from arcface.extras import paddle_not_installed
from arcface.system.home import use_temporary_home_if_needed
from arcface.system.processes import die_with_launcher

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt(3), from glibc's malloc.h
FAST_BLAS = "5"  # of MKL_DEBUG_CPU_TYPE: AVX2


def start_paddle() -> None:
    """Set up this process for fast CPU arithmetic and import Paddle; results change by rounding only.

    Must be called before anything imports Paddle. Under Paddle's launcher, this process ends with the launcher.
    Raises UserError if Paddle is not installed.
    """
    if not importlib.util.find_spec("paddle"):
        raise paddle_not_installed()
    if "PADDLE_LOCAL_SIZE" in os.environ:
        die_with_launcher()
    use_temporary_home_if_needed()
    _use_fast_blas_on_amd()
    _keep_freed_memory()
    _share_cores_between_ranks()
    with _keep_sigterm_handler():
        _import_quietly("paddle")


def cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Return the number of threads for each process: its share of the cores, or what the user has set."""
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is allowed: one number for each nesting level
    return int(outermost) if outermost.isdecimal() and int(outermost) else 1


def ranks_here() -> int:
    """Return the number of ranks that the launcher has started on this machine; 1 without a launcher."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", 1))


def _use_fast_blas_on_amd() -> None:
    # The MKL in Paddle's wheels uses its slowest path on AMD processors unless this names the instruction set.
    try:
        with open("/proc/cpuinfo") as file:
            cpu = file.read(4096)
    except OSError:
        return
    if "AuthenticAMD" in cpu and " avx2" in cpu:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", FAST_BLAS)


def why_memory_is_not_kept() -> str | None:
    """Return why `start_paddle` cannot make malloc keep freed memory for the next operation, or None if it does."""
    set_by_user = [name for name in os.environ if name.startswith("MALLOC_") or name == "LD_PRELOAD"]
    if set_by_user:
        return f"{set_by_user[0]} is set"
    return None if platform.libc_ver()[0] == "glibc" else "the C library is not glibc"


def _keep_freed_memory() -> None:
    # glibc returns large freed buffers to the kernel, and every operation then pays for page faults again.
    if why_memory_is_not_kept():
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _share_cores_between_ranks() -> None:
    # With a thread per core in each rank, the ranks would wait for one another; Paddle's launcher sets one thread per rank
    # (OMP_NUM_THREADS=1), which leaves cores idle if there are fewer ranks than cores.
    launched = "PADDLE_LOCAL_SIZE" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1"
    if launched or "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // ranks_here()))


@contextlib.contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    # Paddle installs a SIGTERM handler that prints a C++ traceback and may wait forever for a lock, such as the allocator's, that
    # the interrupted code owns. A SIGTERM during the import stays pending for the previous handler.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # restores it: Python does not know Paddle's handler
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _import_quietly(module: str) -> None:
    # Paddle warns about every thread count except 1, Paddle 3 suggests a compiler cache, and each step in training mode it says
    # that batch norm tracks its statistics.
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            importlib.import_module(module)
    finally:
        lines = stderr.getvalue().splitlines(keepends=True)
        sys.stderr.writelines(line for line in lines if "OMP_NUM_THREADS" not in line)
