"""Readers of strangers' files stand a minute of mutated ones."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "fuzz_readers.py"
READERS = re.findall(r"^def (\w+)\(content: bytes\) -> None:$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
SECONDS = 60


@pytest.mark.exhaustive
@pytest.mark.parametrize("reader", READERS)
def test_a_minute_of_mutated_files_finds_nothing(start_process, tmp_path, reader):
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed; make test-all installs it where it has a wheel")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    # A seed, so that what it finds is found again; look for more with others, see fuzz_readers.py.
    # Its limit counts the most memory that a process ever had, which the one that started it passes on, this one or the shell.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    process = start_process(
        [*shell, sys.executable, SCRIPT, reader, f"-max_total_time={SECONDS}", "-rss_limit_mb=2048", "-seed=1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    printed, _ = process.communicate(timeout=4 * SECONDS)
    assert process.returncode == 0, printed[-4000:]
    assert int(re.search(r"Done (\d+) runs", printed)[1]) > 1000
