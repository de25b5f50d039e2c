"""File locks: one run at a time writes to a directory."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from arcface.errors import UserError

LOCK_FILE = ".lock"


@contextmanager
def locked_file(path: Path, in_use: Callable[[], UserError]) -> Iterator[BinaryIO]:
    """Open a file to read and write, created if missing, and lock it for this process.

    The kernel releases the lock when the process ends. Raises what `in_use` returns if another process has the lock.
    """
    # Opened without truncation, since the content may be another process's; not removed at the end, since another process may
    # have opened it.
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise in_use() from error
        yield file


@contextmanager
def locked(directory: Path, option: str = "--output") -> Iterator[None]:
    """Lock an existing directory for this process; the kernel releases the lock when the process ends.

    `option` is the command-line option that names the directory. Raises UserError, which names the owner, if another process
    has the lock.
    """
    with locked_file(directory / LOCK_FILE, lambda: _in_use(directory, option, _read_owner(directory))) as file:
        owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.truncate(0)
        file.write(json.dumps(owner).encode())
        file.flush()
        yield


def check_free(directory: Path, option: str) -> None:
    """Raise the UserError of `locked` if another process has locked a directory, which need not exist; writes nothing."""
    if process := owner(directory):
        raise _in_use(directory, option, process)


def owner(directory: Path) -> str | None:
    """Return the process that has locked a directory, or None; writes nothing."""
    try:
        with open(directory / LOCK_FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released at once, when the file is closed
    except BlockingIOError:
        return _read_owner(directory)
    except OSError:
        pass
    return None


def _read_owner(directory: Path) -> str:
    try:
        owner = json.loads((directory / LOCK_FILE).read_text())
        return f"process {int(owner['process'])} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock, but has not written its name yet
        return "another run"


def _in_use(directory: Path, option: str, process: str) -> UserError:
    return UserError(f"{option} {directory}: {process} is writing here; wait, end it or choose another {option}")
