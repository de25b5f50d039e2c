"""Lock of a directory or file: one writer at a time."""

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
    """Yield a file opened for reading and writing, locked for this process; it is created if it does not exist.

    The kernel releases the lock when the process dies. Raises what `in_use` returns if another process has it.
    """
    # Not truncated when opened: the content may be another process's. Not removed at the end: another process may have opened it.
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise in_use() from error
        yield file


@contextmanager
def locked(directory: Path, option: str = "--output") -> Iterator[None]:
    """Lock an existing directory for this process; the kernel releases the lock when the process dies.

    `option` is the one that names the directory, such as "--output". Raises UserError, which names the owner, if another process
    has the lock.
    """
    with locked_file(directory / LOCK_FILE, lambda: _in_use(directory, option, _owner(directory))) as file:
        owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.truncate(0)
        file.write(json.dumps(owner).encode())
        file.flush()
        yield


def check_free(directory: Path, option: str) -> None:
    """Raise the UserError of `locked` if another process has locked a directory, which need not exist; writes nothing."""
    if found := owner(directory):
        raise _in_use(directory, option, found)


def owner(directory: Path) -> str | None:
    """Return which process has locked a directory, None if none has; writes nothing."""
    try:
        with open(directory / LOCK_FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed, at once
    except BlockingIOError:
        return _owner(directory)
    except OSError:
        pass
    return None


def _owner(directory: Path) -> str:
    try:
        owner = json.loads((directory / LOCK_FILE).read_text())
        return f"process {int(owner['process'])} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # the lock is so new that its content is not written yet
        return "another run"


def _in_use(directory: Path, option: str, owner: str) -> UserError:
    return UserError(f"{option} {directory}: {owner} is writing here; wait for it, end it or choose another {option}")
