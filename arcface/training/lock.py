"""One run at a time in an output directory."""

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
def locked(output: Path) -> Iterator[None]:
    """Hold an output directory, which exists, for this process; the kernel gives it back when the process dies.

    Raises UserError, with the owner's name, if another process holds it.
    """
    # Not emptied when it is opened: it names the owner. It stays when we end, since another may have opened it meanwhile.
    with open(output / LOCK_FILE, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--output {output}: {_owner(output)} is writing here; wait, end it or choose another --output"
            ) from error
        file.truncate(0)
        json.dump({"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
        file.flush()
        yield


def owner(output: Path) -> str | None:
    """Return which process holds an output directory, None if none does; nothing is written."""
    try:
        with open(output / LOCK_FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed, at once
    except BlockingIOError:
        return _owner(output)
    except OSError:
        pass
    return None


def _owner(output: Path) -> str:
    try:
        owner = json.loads((output / LOCK_FILE).read_text())
        return f"process {int(owner['process'])} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just taken the lock
        return "another run"
