"""Child processes and ranks: how they end together with the process that started them."""

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

SECONDS_TO_STOP = 30  # for a rank to finish its step and save after its launcher has ended; Paddle's launcher gives as many
POLL_INTERVAL = 1.0  # seconds
# Terminals and batch systems send these to all processes of a job; the training process decides what to do.
LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PADDLES_LIBRARY = re.compile(rb"/paddle/\S+\.so")  # in a process's list of mapped files
LAUNCHERS_OWN = "POD_NAME"  # only Paddle's launcher sets it, not scripts that set the ranks' variables themselves


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends; does nothing on systems other than Linux.

    `parent` is the parent's process id as the parent itself passes it: asked for here, it could be that of a process which has
    adopted this one after the parent's end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before the line above
            os.kill(os.getpid(), number)


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package, as `python -m` does, in a process that ends with this one.

    That process ignores the signals of a whole job. This process must run the command itself, not through another.
    """
    start = "from arcface.system.processes import run_child; run_child()"
    return [sys.executable, "-c", start, str(os.getpid()), module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment, with a PYTHONPATH by which a child finds this package."""
    ours = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [ours, os.environ.get("PYTHONPATH")]))}


def without_gpus(ranks: int) -> dict[str, str]:
    """Return the environment variables with which Paddle's launcher can start so many ranks for the CPU.

    It assigns GPUs even to ranks for the CPU, and ends with an IndexError if there are fewer GPUs than ranks.
    """
    return {"CUDA_VISIBLE_DEVICES": ",".join(["-1"] * ranks)}


def run_child() -> None:
    """Run the module, as the process that `child_command` starts."""
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(int(sys.argv.pop(1)))
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def die_with_launcher() -> None:
    """Have this rank stop with its launcher: SIGTERM when it ends, and SIGKILL if the rank still runs 30 seconds later.

    Raises UserError if the launcher has ended already. Does nothing on systems other than Linux.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # After prctl: if the parent ends from here on, the signal comes.
    ancestors = _up_to_launcher(os.getppid())
    if ancestors is None:
        raise UserError("PADDLE_LOCAL_SIZE is set, but the launcher that set it has ended; start the run again")
    threading.Thread(target=_end_after, args=(ancestors,), name="launcher", daemon=True).start()


def _end_after(ancestors: list[int]) -> None:
    # In a thread: the main one may be in a collective that never returns, where no signal handler runs.
    while [os.getppid(), *map(_parent, ancestors[:-1])] == ancestors:
        time.sleep(POLL_INTERVAL)
    if os.getppid() == ancestors[0]:  # a script in between still runs, so that the kernel has sent no signal
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    os.kill(os.getpid(), signal.SIGKILL)


def _up_to_launcher(pid: int) -> list[int] | None:
    """Return the processes from `pid`, a rank's parent, up to the launcher; None if they have ended and `pid` adopted the rank.

    Between a rank and its launcher there may be scripts that the user has it start; they have the rank's own variables. Who
    adopts a rank (pid 1 or a subreaper) has not, and is no launcher: it has not loaded Paddle, as every launcher has,
    whatever it is called. The launcher itself may be pid 1.
    """
    ancestors = [pid]
    while _is_below_launcher(ancestors[-1]):
        ancestors.append(_parent(ancestors[-1]))
    return ancestors if LAUNCHERS_OWN not in os.environ or _may_be_launcher(ancestors[-1]) else None


def _may_be_launcher(pid: int) -> bool:
    if pid == 0:  # in another PID namespace, which this process cannot see
        return True
    if not _read(os.getpid(), "maps"):  # no /proc
        return True
    return PADDLES_LIBRARY.search(_read(pid, "maps")) is not None


def _is_below_launcher(pid: int) -> bool:
    # By the variable of the rank that scripts in between have no reason to change.
    own = f"{LAUNCHERS_OWN}={os.environ.get(LAUNCHERS_OWN)}".encode()
    return own in _read(pid, "environ").split(b"\0")


def _parent(pid: int) -> int:
    """Return a process's parent; 0 if there is none or the process has ended."""
    after_name = _read(pid, "stat").rpartition(b")")[2].split()
    return int(after_name[1]) if after_name else 0


def _read(pid: int, file: str) -> bytes:
    """Return the content of a file of /proc/<pid>; b"" for a process that has ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""
