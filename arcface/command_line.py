"""What every command shares: errors that the user can fix are one line on stderr and exit code 2."""

import sys
from collections.abc import Callable

from arcface.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError ends the process with its message in one line and exit code 2, without a traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {_printable(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def _printable(text: str) -> str:
    """Escape what a terminal would take for commands: messages quote files and names from strangers."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
