"""How commands end: errors that the user can fix are one line on stderr and exit code 2."""

import errno
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from arcface.errors import UserError, printable
from arcface.extras import paddle_not_installed

CLOSED_PIPE = 141  # a shell's exit code for a process that SIGPIPE ended


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError ends the process with its message on one line and exit code 2, without a traceback.

    So does the import of a Paddle that is not installed. If the output is closed, as in `valid.py | head -1`, it ends quietly.
    """
    try:
        main()
    except UserError as error:
        _end_with_error(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "paddle":
            raise
        _end_with_error(paddle_not_installed())
    except MemoryError as error:
        detail = " ".join(str(error).split())[:200] or "no details"
        _end(f"error: out of memory ({printable(detail)}); reduce the size of the task or close other programs", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO) or not _is_closed(sys.stdout):
            raise
        sys.exit(CLOSED_PIPE)
    finally:
        _flush_or_discard()


def _end_with_error(error: UserError) -> NoReturn:
    _end(f"error: {' '.join(str(error).split())}", 2)


def _end(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def _flush_or_discard() -> None:
    """Write out what is buffered, or discard it if the output is closed; otherwise Python would try again and print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            if _is_closed(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_closed(stream: TextIO) -> bool:
    """Whether a stream is a pipe without a reader or a closed terminal."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are always reported
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # in a test or a notebook it is not a file
        return False
