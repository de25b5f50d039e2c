"""What every command shares: errors that the user can fix are one line on stderr and exit code 2."""

import errno
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from arcface.errors import UserError
from arcface.extras import no_paddle

CLOSED_PIPE = 141  # what a shell shows of a process that SIGPIPE has ended


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError ends the process with its message in one line and exit code 2, without a traceback.

    So does an import of Paddle where it is not installed. Where nobody reads the output any more, as in `valid.py | head -1`,
    it ends without a word.
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
        detail = " ".join(str(error).split())[:200] or "no more can be had"
        _end(f"error: out of memory ({_printable(detail)}); process less at a time, or end other programs", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO) or not _is_closed(sys.stdout):
            raise
        sys.exit(CLOSED_PIPE)
    finally:
        _let_go_of_closed_output()


def _end_with_error(error: UserError) -> NoReturn:
    _end(f"error: {_printable(' '.join(str(error).split()))}", 2)


def _end(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def _let_go_of_closed_output() -> None:
    """Write out what is still buffered; where that cannot be, keep Python from trying it again at its end, with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            if _is_closed(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_closed(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose reader, or a terminal whose window, is gone."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are always reported
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # in a test or a notebook there is no file behind it
        return False


def _printable(text: str) -> str:
    """Escape what a terminal would take for commands: messages quote files and names from strangers."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
