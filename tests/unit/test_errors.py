"""UserError: one short line, whatever a stranger's file contributes to it."""

import pytest

from arcface.errors import UserError
from arcface.verification.pair_lists import read_pairs


def test_a_message_stays_as_it_is_written():
    message = f"/data/Größe 名前.txt line 3: 'a b' {'x' * 900}; correct the line"
    assert str(UserError(message)) == message


def test_lines_are_joined_and_what_would_command_a_terminal_is_escaped():
    assert str(UserError("a\n  b\tc\x1b[31m\udcff")) == "a b\tc" + r"\x1b[31m\udcff"


def test_the_middle_of_a_very_long_message_is_left_out():
    message = str(UserError(f"where: {'x' * 5000}; what to do"))
    assert message.startswith("where: xxx") and "x ... x" in message and message.endswith("xxx; what to do") and len(message) == 960


def test_a_list_of_pairs_with_names_of_any_length_is_refused_in_a_short_line(tmp_path):
    name = "N" * 3000
    (tmp_path / "pairs.txt").write_text(f"1\n{name}\t1\t2\n{name}\t1\tBob\t2\n")
    with pytest.raises(UserError) as error:
        read_pairs(tmp_path / "pairs.txt").find_images(tmp_path)
    assert len(str(error.value)) < 1000 and "restore the files, or leave out their pairs" in str(error.value)
