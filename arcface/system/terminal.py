"""Output to a closed terminal or to a pipe without a reader, which a run survives."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

CLOSED = (errno.EIO, errno.EPIPE)  # a terminal, a pipe


@contextmanager
def survive_closed_output() -> Iterator[None]:
    """Discard what is written to stdout and stderr after they were closed, instead of raising: print, logging, progress bars."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _DiscardingStream(stream) for stream in before)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


class _DiscardingStream:
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
