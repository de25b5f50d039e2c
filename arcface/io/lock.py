"""One run at a time in a directory that runs write into."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arcface.errors import UserError

LOCK_FILE = ".lock"


@contextmanager
def locked(directory: Path, option: str = "--output") -> Iterator[None]:
    """Hold a directory, which exists, for this process; the kernel gives it back when the process dies.

    `option` is the one that names the directory, such as "--output". Raises UserError, with the owner's name, if another
    process holds it.
    """
    # Not emptied when it is opened: it names the owner. It stays when we end, since another may have opened it meanwhile.
    with open(directory / LOCK_FILE, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _error_held(directory, option, _owner(directory)) from error
        file.truncate(0)
        json.dump({"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
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
