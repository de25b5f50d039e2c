"""Output that is being written: it is called NAME.partial until all of it is on the disk, and an interrupted run resumes it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from arcface.errors import UserError
from arcface.io.lock import locked_file


def partial_of(output: Path) -> Path:
    """Return what an output is called while it is being written."""
    return output.with_name(f"{output.name}.partial")


def locked_partial(path: Path, option: str = "--output") -> AbstractContextManager[BinaryIO]:
    """Open an unfinished file, created if it is missing, and hold it; `option` says where it is.

    Raises UserError if another process holds it.
    """
    message = f"{path}: another process is writing it; wait for it, or choose another {option}"
    return locked_file(path, lambda: UserError(message))


def begun_otherwise(path: Path, option: str = "--output") -> UserError:
    """Return the error for an unfinished output of an earlier run that had other images or labels."""
    return UserError(f"{path}: was begun for other images or labels; remove it, or choose another {option}")
