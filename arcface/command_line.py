"""What every command shares: errors that the user can fix are one line on stderr and exit code 2."""

import sys
from collections.abc import Callable
from typing import NoReturn

from arcface.errors import UserError
from arcface.extras import no_paddle


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError ends the process with its message in one line and exit code 2, without a traceback.

    So does an import of Paddle where it is not installed.
    """
    try:
        main()
    except UserError as error:
        _end(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "paddle":
            raise
        _end(no_paddle())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def _end(error: UserError) -> NoReturn:
    print(f"error: {_printable(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
    sys.exit(2)


def _printable(text: str) -> str:
    """Escape what a terminal would take for commands: messages quote files and names from strangers."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
