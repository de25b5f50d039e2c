"""The library of CPU kernels is built once, or training does without it."""

import os
import stat
import subprocess
import sys

import pytest

LOAD = "from arcface.ops.build import load_library; print(load_library())"


@pytest.fixture
def load_in_new_process(start_process, tmp_path, repository):
    """Returns a function that starts a process that loads the library, with a compiler of its own and an empty cache."""

    def start(compiler="g++", cache=tmp_path / "cache"):
        environment = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(repository)}
        return start_process(
            [sys.executable, "-c", LOAD], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_processes_that_start_at_once_build_once(library, load_in_new_process, tmp_path):
    compiler = script(tmp_path / "compiler", f'echo built >> {tmp_path}/built\nexec g++ "$@"')
    processes = [load_in_new_process(compiler) for _ in range(3)]
    assert all(process.communicate(timeout=120)[0].startswith("<CDLL") for process in processes)
    assert (tmp_path / "built").read_text() == "built\n"
    assert load_in_new_process("no-compiler").communicate(timeout=120)[0].startswith("<CDLL")  # it is in the cache


@pytest.mark.parametrize(
    "compiler, complaint",
    [
        ("no-such-compiler", "no C++ compiler (no-such-compiler); install g++, or name one in CXX"),
        ("exit 1", "returned non-zero exit status 1"),
        ('echo "broken.cc: error" >&2; exit 1', "broken.cc: error"),
        ('for last in "$@"; do :; done; echo half > "$last"; kill -9 $$', "died with <Signals.SIGKILL"),
    ],
)
def test_without_a_build_one_line_says_so_and_nothing_stays(load_in_new_process, tmp_path, compiler, complaint):
    compiler = script(tmp_path / "compiler", compiler) if " " in compiler else compiler
    printed, said = load_in_new_process(compiler).communicate(timeout=120)
    assert printed == "None\n"
    (line,) = [line for line in said.splitlines() if "CPU kernels not available, training uses Paddle's own" in line]
    assert complaint in line
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.name != ".lock" and file.is_file()]


def test_a_home_that_cannot_be_written_to_is_done_without(library, load_in_new_process, tmp_path):
    (tmp_path / "file").touch()
    assert load_in_new_process(cache=tmp_path / "file").communicate(timeout=120)[0].startswith("<CDLL")
