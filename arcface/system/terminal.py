"""Output that may go nowhere: a terminal that was closed, or a pipe whose reader has ended."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

GONE = (errno.EIO, errno.EPIPE)  # of a terminal, of a pipe


@contextmanager
def output_may_be_lost() -> Iterator[None]:
    """Have whatever writes to stdout and stderr go on when nobody can read it any more: print, logging, progress bars."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Output(stream) for stream in before)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Output:
    """A stream that turns into the null device when its terminal or pipe is gone."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno not in GONE:
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())  # the descriptor, so that what is still buffered can be written, too
        os.close(null)
