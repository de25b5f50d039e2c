"""How another process of this machine ended. The kernel knows until its parent has asked, for a second or so."""

import os
import signal
import time
from pathlib import Path

PATIENCE = 0.5  # seconds within which a process ends whose connections have closed
POLL_INTERVAL = 0.01  # seconds
STATE, EXIT_CODE = 3, 52  # fields of /proc/<pid>/stat, counted from 1; see proc(5)
FIRST_FIELD_BEHIND_NAME = 3


def pid_namespace() -> str:
    """Return the name of the boot and namespace in which process numbers mean the same; "" if it is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def exit_reason(pid: int, patience: float = PATIENCE) -> str | None:
    """Return how a process that is ending ended, such as "was killed by signal 9, perhaps out of memory"; None if unknown.

    Waits for its end for `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            content = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:  # its parent has asked already, or this is not Linux
            return None
        fields = content.rpartition(")")[2].split()  # the process's name before it may contain anything
        if fields[STATE - FIRST_FIELD_BEHIND_NAME] in "ZX":
            return _described(int(fields[EXIT_CODE - FIRST_FIELD_BEHIND_NAME]))
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_INTERVAL)


def _described(status: int) -> str | None:
    """Describe an exit status as wait(2) gives it. 0 says nothing: it may be one that the kernel hides from this user."""
    if number := status & 0x7F:
        out_of_memory = ", perhaps out of memory" if number == signal.SIGKILL else ""
        return f"was killed by signal {number}{out_of_memory}"
    return f"ended with exit code {status >> 8}" if status else None
