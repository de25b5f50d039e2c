"""Processes that end with the one that started them."""

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

SECONDS_TO_STOP = 30  # that a rank has to finish its step and save when its launcher has ended, as Paddle's launcher gives it
SECONDS_BETWEEN_LOOKS = 1.0
# Terminals and batch systems send these to all processes of a job; what they mean, the training process decides.
LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PADDLES_LIBRARY = re.compile(rb"/paddle/\S+\.so")  # in a list of what a process has mapped
LAUNCHERS_OWN = "POD_NAME"  # set by Paddle's launcher for its ranks, unlike by scripts that set the ranks' variables themselves


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have this process get a signal when its parent ends, however that ends; does nothing on other systems than Linux.

    `parent` is the parent's own process id, passed on by the parent: asked for here, it could be that of who adopted this
    process when the parent had ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before the line above
            os.kill(os.getpid(), number)


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours, as `python -m` does, in a process that ends with this one.

    The process leaves the signals of a whole job to this one. The command must be run by the calling process itself.
    """
    start = "from arcface.system.processes import run_child; run_child()"
    return [sys.executable, "-c", start, str(os.getpid()), module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment for one that imports our modules, wherever they are imported from here."""
    ours = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [ours, os.environ.get("PYTHONPATH")]))}


def without_gpus(ranks: int) -> dict[str, str]:
    """Return what Paddle's launcher needs in its environment to start so many ranks for the CPU.

    It deals out GPUs whatever the ranks are for, and ends with an IndexError when there are fewer than ranks.
    """
    return {"CUDA_VISIBLE_DEVICES": ",".join(["-1"] * ranks)}


def run_child() -> None:
    """Be the process that `child_command` describes."""
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(int(sys.argv.pop(1)))
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def die_with_launcher() -> None:
    """Have this rank stop with its launcher: SIGTERM when it ends, and SIGKILL if the rank is still there 30 seconds later.

    Raises UserError if the launcher ended before this process came to ask. Does nothing on other systems than Linux.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # Asked after prctl: if the parent ends from here on, the signal comes.
    ancestors = _up_to_launcher(os.getppid())
    if ancestors is None:
        raise UserError("PADDLE_LOCAL_SIZE is set, but the launcher that set it has ended; start the run again")
    threading.Thread(target=_end_after, args=(ancestors,), name="launcher", daemon=True).start()


def _end_after(ancestors: list[int]) -> None:
    # A thread, since the main one may be in a collective that never returns, where no handler of a signal runs.
    while [os.getppid(), *map(_parent, ancestors[:-1])] == ancestors:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if os.getppid() == ancestors[0]:  # a script in between lives on, so that the kernel has sent nothing
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
    if pid == 0:  # in another PID namespace, where this process cannot look
        return True
    if not _read(os.getpid(), "maps"):  # without /proc nothing can be said
        return True
    return PADDLES_LIBRARY.search(_read(pid, "maps")) is not None


def _is_below_launcher(pid: int) -> bool:
    # Of the rank's variables, the one that scripts in between have no reason to change.
    own = f"{LAUNCHERS_OWN}={os.environ.get(LAUNCHERS_OWN)}".encode()
    return own in _read(pid, "environ").split(b"\0")


def _parent(pid: int) -> int:
    """Return a process's parent; 0 if there is none or the process has ended."""
    after_name = _read(pid, "stat").rpartition(b")")[2].split()
    return int(after_name[1]) if after_name else 0


def _read(pid: int, file: str) -> bytes:
    """Return a file of /proc/<pid>; nothing for a process that has ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""
