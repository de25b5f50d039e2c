"""Lines, words and numbers of a file come out as Python's own string methods give them, wherever the file is cut into blocks."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.errors import UserError
from arcface.io import text
from arcface.io.text import blocks, count_lines, whole_numbers

SPACES = st.sampled_from([" ", "\t", "  ", "\v", "\f"])
WORDS = st.one_of(st.integers(0, 10**20).map(str), st.sampled_from(["#", "0", "007", "-1", "1.5", "1_0", "x", "é", "9" * 18]))
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.one_of(SPACES, WORDS, LINE_ENDS), max_size=60), st.integers(1, 40))
def test_lines_words_and_numbers_are_found(tmp_path_factory, written, block_size):
    file = tmp_path_factory.mktemp("lines") / "list.txt"
    file.write_bytes("".join(written).encode())
    expected = file.read_bytes().splitlines()
    with pytest.MonkeyPatch.context() as patch, file.open("rb") as opened:
        patch.setattr(text, "_BLOCK", block_size)
        assert count_lines(opened) == len(expected)
        number = 0
        for block in blocks(opened):
            assert block.number == number + 1
            for row in range(len(block.lines)):
                assert block.line(row) == expected[number].strip()
                own = slice(block.first_words[row], block.first_words[row + 1])
                words = [block.content[start:end] for start, end in zip(block.starts[own], block.ends[own], strict=True)]
                assert words == expected[number].split()
                opened_at = block.offset + int(block.lines[row])
                assert file.read_bytes()[opened_at:].startswith(expected[number])
                values, sound = whole_numbers(block, np.arange(own.start, own.stop))
                assert values.dtype == np.int64
                for word, value, is_number in zip(words, values, sound, strict=True):
                    assert is_number == bool(re.fullmatch(rb"[0-9]{1,18}", word))
                    assert not is_number or value == int(word)
                number += 1
        assert number == len(expected)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"first\n" + b"x" * 70_000 + b" " * 10**6, "list.txt line 2: 'x{100}...' is longer than 65,536 bytes"),
        (b"first\nsec\0nd\n", "list.txt line 2: contains a zero byte"),
        (
            "first\nsecond\n".encode("utf-16"),
            "list.txt line 1: contains a zero byte, so it is not UTF-8 text; save the list as UTF-8",
        ),
    ],
)
def test_what_is_no_list_of_short_lines_is_refused(tmp_path, content, complaint):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=complaint), (tmp_path / "list.txt").open("rb") as opened:
        list(blocks(opened))
