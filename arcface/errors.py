"""UserError, the error that commands show as one line."""

_LONGEST = 960  # characters of a message
_ITS_END = 360  # characters that stay of its end, which says what to do


class UserError(Exception):
    """An error that the user can fix; the message says on one line what is wrong, where, and what to do. Exit code 2.

    Messages quote strangers' files and libraries: lines are joined, what cannot be printed is escaped, and the middle of a very
    long message is left out.
    """

    def __init__(self, message: str):
        line = printable(" ".join(part.strip() for part in message.splitlines()))
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST - _ITS_END - 5]} ... {line[-_ITS_END:]}"
        super().__init__(line)


def printable(text: str) -> str:
    """Return the text with escapes, as in Python, in place of what would break a line or command a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\t" else ascii(letter)[1:-1] for letter in text)
