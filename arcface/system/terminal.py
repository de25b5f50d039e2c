"""Output that survives a closed terminal and a pipe without a reader."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

CLOSED = (errno.EIO, errno.EPIPE)  # of a terminal, of a pipe


@contextmanager
def output_may_be_lost() -> Iterator[None]:
    """Let print, logging and progress bars continue in the block when nobody can read stdout or stderr any more."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Output(stream) for stream in before)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Output:
    """A stream that becomes the null device when its terminal or pipe is closed."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        if error.errno not in CLOSED:
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())  # the descriptor, so that buffered text can be written too
        os.close(null)
