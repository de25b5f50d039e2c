"""Fast parsing of long text files: lines, words and numbers as arrays of offsets, without a Python object for each."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from arcface.errors import UserError, printable

LONGEST_LINE = 1 << 16  # bytes
_BLOCK = 1 << 20  # bytes read at once
_SHOWN = 100  # characters of a line in a message
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"
_MAX_DIGITS = 18  # that always fit an int64
_IS_SPACE = np.zeros(256, bool)
_IS_SPACE[list(b" \t\n\r\v\f")] = True


class Block(NamedTuple):
    """Consecutive whole lines of a file, and their words, separated by white space.

    content: the bytes of the lines. text: the same as uint8.
    offset: of the first byte in the file. number: of the first line, from 1.
    lines: int64 [n], where each line begins in content.
    starts, ends: int64 [words], where each word begins, and one past its last byte.
    first_words: int64 [n + 1]; the words of line i are first_words[i] .. first_words[i + 1] - 1.
    """

    content: bytes
    text: np.ndarray
    offset: int
    number: int
    lines: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    first_words: np.ndarray

    def line(self, index: int) -> bytes:
        """Return a line without the white space around it."""
        end = self.lines[index + 1] if index + 1 < len(self.lines) else len(self.content)
        return self.content[self.lines[index] : end].strip()


def count_lines(file: BinaryIO) -> int:
    """Return how many lines `blocks` yields; raises OSError if the file cannot be read."""
    file.seek(0)
    lines, last = 0, b"\n"
    while chunk := file.read(_BLOCK):
        lines += chunk.count(b"\n") + chunk.count(b"\r") - (last + chunk).count(b"\r\n")
        last = chunk[-1:]
    return lines + (last not in b"\r\n")


def blocks(file: BinaryIO) -> Iterator[Block]:
    """Yield the lines of a file in blocks of about 1 MiB; lines end with LF, CR LF or CR, and a byte order mark counts as spaces.

    Raises OSError if the file cannot be read, and UserError if a line is longer than LONGEST_LINE or contains a zero byte.
    """
    file.seek(0)
    offset, number, rest = 0, 1, b""
    while chunk := file.read(_BLOCK):
        content = rest + chunk
        cut = max(content.rfind(b"\n"), content.rfind(b"\r", 0, -1)) + 1  # a CR at the end may be the first half of CR LF
        content, rest = content[:cut], content[cut:]
        if content:
            yield (block := _cut(content, offset, number, file.name))
            offset, number = offset + cut, number + len(block.lines)
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{file.name} line {number}: '{shown(rest)}' is longer than {LONGEST_LINE:,} bytes; correct the line")
    if rest:
        yield _cut(rest, offset, number, file.name)


def shown(line: bytes) -> str:
    """Return a line for a message, shortened if it is long."""
    text = printable(line[: 4 * _SHOWN + 4].decode(errors="replace"))  # a character has up to four bytes
    return text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")


def whole_numbers(block: Block, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (int64) of the given words and whether each is a whole number (bool): 1 to 18 digits, no sign."""
    starts, ends = block.starts[words], block.ends[words]
    width = ends - starts
    values, sound = np.zeros(len(words), np.int64), width <= _MAX_DIGITS
    for place in range(min(_MAX_DIGITS, width.max(initial=0))):
        there = width > place
        digits = block.text[np.where(there, ends - 1 - place, starts)] - np.uint8(ord("0"))  # wraps: others are above 9
        sound &= ~there | (digits <= 9)
        values += np.where(there, digits, 0).astype(np.int64) * 10**place
    return values, sound


def _cut(content: bytes, offset: int, number: int, name: str) -> Block:
    if offset == 0 and content.startswith(BYTE_ORDER_MARK):
        content = content.replace(BYTE_ORDER_MARK, b" " * len(BYTE_ORDER_MARK), 1)
    text = np.frombuffer(content, np.uint8)
    ends_line = text == _LF
    if b"\r" in content:
        ends_line |= (text == _CR) & (np.append(text[1:], text[:1]) != _LF)
    lines = np.append(0, np.flatnonzero(ends_line[:-1]) + 1)
    if (zero := content.find(b"\0")) >= 0:
        number += int(np.searchsorted(lines, zero, side="right")) - 1
        raise UserError(f"{name} line {number}: contains a zero byte, so it is not UTF-8 text; save the list as UTF-8")
    in_word = ~_IS_SPACE[text]
    edges = np.flatnonzero(np.diff(in_word, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    first_words = np.append(np.searchsorted(starts, lines), len(starts))
    return Block(content, text, offset, number, lines, starts, ends, first_words)
