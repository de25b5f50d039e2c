"""One run at a time in a directory that runs write into."""

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
    """Open a file to read and write, created if it is missing, and hold it for this process.

    The kernel releases it when the process dies. Raises what `in_use` returns if another process holds it.
    """
    # Not emptied when it is opened: the content may be another process's. It stays when we end, since another may have opened it.
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise in_use() from error
        yield file


@contextmanager
def locked(directory: Path, option: str = "--output") -> Iterator[None]:
    """Hold a directory, which exists, for this process; the kernel releases it when the process dies.

    `option` is the one that names the directory, such as "--output". Raises UserError, with the owner's name, if another
    process holds it.
    """
    with locked_file(directory / LOCK_FILE, lambda: _error_held(directory, option, _owner(directory))) as file:
        owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.truncate(0)
        file.write(json.dumps(owner).encode())
        file.flush()
        yield


def check_free(directory: Path, option: str) -> None:
    """Raise the UserError of `locked` if another process holds a directory, which need not exist; nothing is written."""
    if holder := owner(directory):
        raise _error_held(directory, option, holder)


def owner(directory: Path) -> str | None:
    """Return which process holds a directory, None if none does; nothing is written."""
    try:
        with open(directory / LOCK_FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed, at once
    except BlockingIOError:
        return _owner(directory)
    except OSError:
        pass
    return None


def _owner(directory: Path) -> str:
    try:
        owner = json.loads((directory / LOCK_FILE).read_text())
        return f"process {int(owner['process'])} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
        return "another run"


def _error_held(directory: Path, option: str, holder: str) -> UserError:
    return UserError(f"{option} {directory}: {holder} is writing here; wait, end it or choose another {option}")
