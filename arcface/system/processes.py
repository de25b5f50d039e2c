"""Child processes and ranks that end when the process that started them ends."""

import ctypes
import os
import re
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

from arcface.errors import UserError

PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h

SECONDS_TO_STOP = 30  # for a rank to finish its step and save after its launcher has ended; Paddle's launcher allows the same
POLL_SECONDS = 1.0
# Terminals and batch systems send these to all processes of a job; only the training process acts on them.
LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PADDLE_LIBRARY = re.compile(rb"/paddle/\S+\.so")  # in /proc/<pid>/maps
LAUNCHER_VARIABLE = "POD_NAME"  # only Paddle's launcher sets it, not scripts that set the variables of the ranks themselves


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Make the kernel send this process a signal when its parent ends for any reason; only on Linux.

    The parent passes its own process id as `parent`: os.getppid() here could already name the process that adopted this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent ended before the line above
            os.kill(os.getpid(), number)


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module, as `python -m` does, in a process that ends when this one ends.

    The child ignores signals that are sent to a whole job. The calling process itself must run the command.
    """
    start = "from arcface.system.processes import run_child; run_child()"
    return [sys.executable, "-c", start, str(os.getpid()), module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment, with a PYTHONPATH on which a child finds the same arcface package."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def without_gpus(ranks: int) -> dict[str, str]:
    """Return the environment variables with which Paddle's launcher starts this number of ranks for the CPU.

    It assigns a GPU to every rank, also with `--device cpu`, and ends with an IndexError if there are too few.
    """
    return {"CUDA_VISIBLE_DEVICES": ",".join(["-1"] * ranks)}


def run_child() -> None:
    """Run as the child process of `child_command`."""
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(int(sys.argv.pop(1)))
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def die_with_launcher() -> None:
    """End this rank when its launcher ends: SIGTERM at once, and SIGKILL 30 seconds later; only on Linux.

    Raises UserError if the launcher has already ended.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # After prctl: if the parent ends from here on, the kernel sends the signal.
    ancestors = _ancestors_to_launcher(os.getppid())
    if ancestors is None:
        raise UserError("PADDLE_LOCAL_SIZE is set, but the launcher that set it has ended; start the run again")
    threading.Thread(target=_end_with, args=(ancestors,), name="launcher", daemon=True).start()


def _end_with(ancestors: list[int]) -> None:
    # In a thread: the main one may wait forever in a collective, where no signal handler runs.
    while [os.getppid(), *map(_parent, ancestors[:-1])] == ancestors:
        time.sleep(POLL_SECONDS)
    if os.getppid() == ancestors[0]:  # a script in between still runs, so the kernel has sent nothing
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    os.kill(os.getpid(), signal.SIGKILL)


def _ancestors_to_launcher(pid: int) -> list[int] | None:
    """Return the processes from `pid`, a rank's parent, up to the launcher; None if they have ended and `pid` adopted the rank.

    Scripts of the user may run between a rank and its launcher; they have the rank's variables. A process that adopts a rank
    (pid 1 or a subreaper) has not, and unlike any launcher it has not loaded Paddle. The launcher itself may be pid 1.
    """
    ancestors = [pid]
    while _is_below_launcher(ancestors[-1]):
        ancestors.append(_parent(ancestors[-1]))
    return ancestors if LAUNCHER_VARIABLE not in os.environ or _may_be_launcher(ancestors[-1]) else None


def _may_be_launcher(pid: int) -> bool:
    if pid == 0:  # in another PID namespace, which is not visible from here
        return True
    if not _read(os.getpid(), "maps"):  # without /proc the answer is unknown
        return True
    return PADDLE_LIBRARY.search(_read(pid, "maps")) is not None


def _is_below_launcher(pid: int) -> bool:
    # Scripts in between have no reason to change this one of the rank's variables.
    own = f"{LAUNCHER_VARIABLE}={os.environ.get(LAUNCHER_VARIABLE)}".encode()
    return own in _read(pid, "environ").split(b"\0")


def _parent(pid: int) -> int:
    """Return a process's parent; 0 if it has none or has ended."""
    after_name = _read(pid, "stat").rpartition(b")")[2].split()
    return int(after_name[1]) if after_name else 0


def _read(pid: int, file: str) -> bytes:
    """Return a file of /proc/<pid>; b"" if the process has ended or belongs to another user."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""
