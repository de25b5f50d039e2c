"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from arcface.errors import UserError

FIRST_PROCESS = 1  # becomes the parent of those whose own has ended
LAUNCHERS = (b"python", b"fleetrun")  # what the first process of a container is called if it is the launcher

PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h


def die_with_parent() -> None:
    """Have this process killed when its parent ends, however that ends; does nothing on other systems than Linux."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended just before
            os.kill(os.getpid(), signal.SIGKILL)


def die_with_launcher() -> None:
    """The same for a rank and its launcher; raises UserError if the launcher ended before this process came to ask."""
    die_with_parent()
    if sys.platform == "linux" and os.getppid() == FIRST_PROCESS:
        called = Path(f"/proc/{FIRST_PROCESS}/cmdline").read_bytes()
        if not any(name in called for name in LAUNCHERS):
            raise UserError("PADDLE_LOCAL_SIZE is set, but the launcher that set it has ended; start the run again")
