"""Commands whose output is closed end quietly."""

import os
import subprocess
import sys

import pytest

from arcface.command import CLOSED_PIPE

PRINTS = """
import sys
from arcface.command import run
def main():
    for line in range({lines}):
        print(line, flush={flush})
    {end}
run(main)
"""


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def end_of(*arguments: str, stderr_too: bool = False) -> tuple[int, str]:
    """Run Python with its stdout, and perhaps stderr, closed pipes; returns its exit code and stderr."""
    read, write = os.pipe()
    os.close(read)
    error = write if stderr_too else subprocess.PIPE
    try:
        done = subprocess.run([sys.executable, *arguments], stdout=write, stderr=error, env=BUFFERED, text=True, timeout=60)
    finally:
        os.close(write)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("lines, flush", [(1, True), (100_000, False)])
def test_a_command_that_prints_into_a_closed_pipe_ends_quietly(lines, flush):
    assert end_of("-c", PRINTS.format(lines=lines, flush=flush, end="")) == (CLOSED_PIPE, "")


@pytest.mark.parametrize("end, code", [("", 0), ("sys.exit(1)", 1)])
def test_buffered_output_is_discarded_at_the_end(end, code):
    assert end_of("-c", PRINTS.format(lines=1, flush=False, end=end)) == (code, "")


def test_the_exit_code_of_a_mistake_is_kept_when_stderr_is_closed():
    end = "from arcface.errors import UserError; raise UserError('a mistake')"
    assert end_of("-c", PRINTS.format(lines=0, flush=False, end=end), stderr_too=True)[0] == 2


def test_another_broken_pipe_than_the_output_is_a_traceback():
    program = PRINTS.format(lines=0, flush=False, end="raise BrokenPipeError(32, 'of a worker')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "of a worker" in done.stderr


def test_memory_that_runs_out_is_one_line():
    program = PRINTS.format(lines=0, flush=False, end="raise MemoryError('no 9 GiB')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: out of memory (no 9 GiB); reduce the size of the task or close other programs\n"


@pytest.mark.parametrize("command", ["train.py", "datasets/convert.py"])
def test_help_into_a_closed_pipe_is_quiet(repository, command):
    assert end_of(str(repository / command), "--help") == (CLOSED_PIPE, "")
