"""Start of every command: an error that the user can fix is one line on stderr and exit code 2."""

import errno
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from arcface.errors import UserError
from arcface.extras import no_paddle

CLOSED_PIPE = 141  # the exit code that a shell shows for a process ended by SIGPIPE


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError ends the process with its message in one line and exit code 2, without a traceback.

    So do a missing Paddle and a lack of memory. If nobody reads the output any more, as in `valid.py | head -1`, the process ends
    silently.
    """
    try:
        main()
    except UserError as error:
        _end_with_error(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "paddle":
            raise
        _end_with_error(no_paddle())
    except MemoryError as error:
        detail = " ".join(str(error).split())[:200] or "none left"
        _end(f"error: out of memory ({_printable(detail)}); process less at a time or end other programs", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO) or not _is_closed(sys.stdout):
            raise
        sys.exit(CLOSED_PIPE)
    finally:
        _discard_closed_output()


def _end_with_error(error: UserError) -> NoReturn:
    _end(f"error: {_printable(' '.join(str(error).split()))}", 2)


def _end(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def _discard_closed_output() -> None:
    """Flush stdout and stderr; if one is closed, keep Python from trying again at its end, with a traceback."""
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
        poll.register(stream.fileno(), 0)  # errors are reported in any case
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file, as in a test or a notebook
        return False


def _printable(text: str) -> str:
    """Escape control characters: messages quote files and names from strangers, which could command a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
