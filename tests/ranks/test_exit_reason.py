"""How a process has ended is told while it is a zombie, by one that is not its parent."""

import signal
import subprocess
import sys

import pytest

from arcface.distributed.exit_reason import exit_reason, pid_namespace

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is a /proc on Linux only")


@pytest.mark.parametrize(
    "end, told",
    [
        ("kill -9 $$", "was killed by signal 9, perhaps out of memory"),
        ("kill -11 $$", "was killed by signal 11"),
        ("exit 3", "ended with exit code 3"),
        ("exit 0", None),
    ],
)
def test_it_is_told_how_a_process_has_ended(end, told):
    process = subprocess.Popen(["sh", "-c", end])
    try:
        from_a_sibling = f"from arcface.distributed.exit_reason import exit_reason; print(exit_reason({process.pid}, 20))"
        done = subprocess.run([sys.executable, "-c", from_a_sibling], capture_output=True, text=True, timeout=60)
        assert done.stdout == f"{told}\n", done.stderr
    finally:
        process.wait()


def test_nothing_is_told_of_one_that_lives_or_was_never_there():
    process = subprocess.Popen(["sleep", "100"])
    try:
        assert exit_reason(process.pid, patience=0.05) is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert exit_reason(process.pid) is None


def test_the_namespace_is_the_same_in_every_process_of_one():
    ask = "from arcface.distributed.exit_reason import pid_namespace; print(pid_namespace())"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == pid_namespace() != ""
