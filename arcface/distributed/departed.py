"""How another process of this machine has ended, as long as the kernel tells: until its parent has asked, after a second or so."""

import os
import signal
import time
from pathlib import Path

PATIENCE = 0.5  # seconds in which a process whose connections have closed has ended for good
SECONDS_BETWEEN_LOOKS = 0.01
STATE, EXIT_CODE = 3, 52  # fields of /proc/<process>/stat, counted from 1; see proc(5)
FIRST_FIELD_BEHIND_NAME = 3


def pid_namespace() -> str:
    """Return what must be equal for a process number to mean the same: the boot and the namespace; "" where that is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def how_ended(process: int, patience: float = PATIENCE) -> str | None:
    """Return "was killed by signal 9, perhaps out of memory" or the like of a process that is ending, None if nothing is known.

    Waits for its end for `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            content = Path(f"/proc/{process}/stat").read_text(errors="replace")
        except OSError:  # gone without a trace, or no Linux
            return None
        fields = content.rpartition(")")[2].split()  # the name before it may hold anything
        if fields[STATE - FIRST_FIELD_BEHIND_NAME] in "ZX":
            return _described(int(fields[EXIT_CODE - FIRST_FIELD_BEHIND_NAME]))
        if time.monotonic() > deadline:
            return None
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _described(status: int) -> str | None:
    """Describe an exit status as wait(2) gives it; 0 may also be one that the kernel does not show to this user."""
    if number := status & 0x7F:
        out_of_memory = ", perhaps out of memory" if number == signal.SIGKILL else ""
        return f"was killed by signal {number}{out_of_memory}"
    return f"ended with exit code {status >> 8}" if status else None
