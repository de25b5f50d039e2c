"""Lines of the lists of a protocol directory, and the message for one that is wrong."""

from collections.abc import Iterator
from pathlib import Path

from arcface.errors import UserError
from arcface.io.files import read_file
from arcface.io.text import shown


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number, from 1, and content of the lines that are not blank; raises UserError if the file cannot be read."""
    try:
        content = read_file(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; restore the file") from error
    for number, line in enumerate(content.splitlines(), 1):
        if line := line.strip():
            yield number, line


def is_number(text: bytes) -> bool:
    """Whether a word is a whole number that fits an int64."""
    return text.isdigit() and len(text) <= 18


def wrong_line(file: str | Path, number: int, line: bytes, complaint: str) -> UserError:
    """Return the error of a line that is wrong."""
    return UserError(f"{file} line {number}: '{shown(line.strip())}' {complaint}; correct or remove the line")
