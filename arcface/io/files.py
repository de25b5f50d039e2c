"""Atomic writes that survive a crash or a full disk, and reads of regular files only, never of pipes or devices."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from arcface.errors import UserError


def user_path(text: str) -> Path:
    """Return a path with ~ (the home directory) and ~name (another user's) expanded as in a shell.

    Raises UserError if ~ has no known home directory.
    """
    path = os.path.expanduser(text)
    if path == "~" or path.startswith("~/"):
        raise UserError(f"{text}: the home directory is unknown; write the path without ~, or set HOME")
    return Path(path)


def open_file(path: str | bytes | Path) -> BinaryIO:
    """Open a regular file to read; raises OSError if it cannot be read or is a pipe or device, which might block forever."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", os.fsdecode(path))
    return file


def read_file(path: str | bytes | Path) -> bytes:
    """Return a file's content; raises OSError as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def check_paths(directories: list[Path], files: list[Path]) -> None:
    """Raise OSError for a directory that cannot be created because a file is in its place, and for a file that is not regular."""
    for directory in directories:
        existing = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            number = errno.EEXIST if existing == directory else errno.ENOTDIR
            raise OSError(number, os.strerror(number), os.fspath(directory))
    for file in files:
        if file.parent.is_dir() and file.exists() and not file.is_file():
            raise OSError(errno.EINVAL, "Not a regular file", os.fspath(file))


def check_writable(directory: Path) -> None:
    """Raise OSError if no file can be written in a directory; leaves nothing behind."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(2**16))


def write_new(path: Path, content: bytes) -> None:
    """Write a new file and sync it to disk; raises OSError if it cannot be written, FileExistsError if it exists."""
    with new_file(path) as file:
        file.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new binary file for writing, synced to disk when the block ends; raises what `write_new` raises."""
    with path.open("xb") as file:
        yield file
        _sync(file)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that replaces `path` when the block ends without an error.

    Until then readers of `path` see the old content; afterwards the complete new content, synced to disk.
    Raises OSError if it cannot be written; `path` is then unchanged.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            yield file
            _sync(file)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Sync a directory's entries to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
