"""Deadline: a process that kills its parent if a call takes too long.

For calls that hold Python's lock while they wait, so that no thread of their own process could end them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from arcface.system.processes import child_command, child_environment


@contextmanager
def deadline(seconds: float, message: str) -> Iterator[None]:
    """Kill this process and write a message to stderr if the block takes longer than `seconds`."""
    command = child_command(__name__, str(seconds), message)
    guard = subprocess.Popen(command, env=child_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


def main() -> None:
    parent, (seconds, message) = os.getppid(), sys.argv[1:]
    time.sleep(float(seconds))
    print(message, file=sys.stderr, flush=True)
    if os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    main()
