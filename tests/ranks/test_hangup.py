"""A closed terminal or the end of the launcher stops a run as SIGTERM does, with a checkpoint; only output is lost."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from forks import wait_until
from launchers import HAS_PADDLE
from run_state import processes_of, steps_logged

from arcface.system.processes import without_gpus

TRAIN = Path(__file__).parents[1] / "helpers" / "tiny_train.py"
SECONDS = 180  # at most that anything here takes


@pytest.fixture(scope="module")
def data_set(make_data_set):
    return make_data_set(28, 7)


@pytest.fixture
def start(data_set, tmp_path):
    """Returns a function that starts a run, in a process group of its own; what still runs is killed at the end."""
    started = []

    def run(*more: str, name: str = "out", ranks: int = 1, **popen) -> subprocess.Popen:
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", str(tmp_path / "launch")]
        options = ["--network=Tiny", "--device=cpu", "--val_targets=", "--batch_size=4", "--num_workers=1", "--log_interval=1"]
        options += ["--num_epoch=1000", f"--data_dir={data_set}", f"--output={tmp_path / name}", f"--logdir={tmp_path / name}_log"]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | without_gpus(ranks)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [sys.executable, *(launch if ranks > 1 else []), str(TRAIN), *options, *more]
        how = {**streams, "preexec_fn": hangups_end_it, **popen}
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, env=environment, **how)
        started.append(process)
        return process

    yield run
    for pid in {*processes_of(tmp_path), *(process.pid for process in started if process.poll() is None)}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for process in started:
        process.wait(SECONDS)


def hangups_end_it() -> None:
    """Have a process take SIGHUP as it comes, also where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def steps_saved(output: Path) -> int:
    return json.loads((output / "latest" / "checkpoint.json").read_text())["progress"]["step"]


def assert_same(output: Path, expected: Path) -> None:
    for file in ("Tiny.pdparams", "Tiny_momentum.pdparams"):
        ours, theirs = (paddle.load(str(folder / file), return_numpy=True) for folder in (output, expected))
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours if isinstance(ours[name], np.ndarray))
    shards = sorted(file.name for file in expected.glob("rank:*"))
    assert shards and all((output / name).read_bytes() == (expected / name).read_bytes() for name in shards)


def stopped_after(output: Path) -> int:
    """The step after which a run says that it was stopped, which is the one that is saved."""
    step = int(re.findall(r"stopped by a signal after step (\d+), which is saved", (output / "training.log").read_text())[-1])
    assert step == steps_saved(output)
    return step


def test_a_hangup_of_one_rank_saves_and_the_run_resumes_bit_for_bit(start, tmp_path):
    output = tmp_path / "out"
    process = start()
    wait_until(lambda: steps_logged(output) >= 3, SECONDS)
    os.killpg(process.pid, signal.SIGHUP)  # the worker, too
    assert process.wait(SECONDS) == 0
    last = stopped_after(output) + 3
    assert start(f"--max_steps={last}", "--resume=1").wait(SECONDS) == 0
    assert start(f"--max_steps={last}", name="whole").wait(SECONDS) == 0
    assert_same(output, tmp_path / "whole")


def test_ranks_whose_launcher_hangs_up_or_is_killed_save_and_resume_bit_for_bit(start, tmp_path):
    output, before = tmp_path / "out", 0
    for number in (signal.SIGHUP, signal.SIGKILL):
        launcher = start(*(["--resume=1"] if before else []), ranks=2)
        wait_until(lambda enough=before + 3: steps_logged(output) >= enough, SECONDS)
        os.killpg(launcher.pid, number)
        assert launcher.wait(SECONDS) == -number
        wait_until(lambda: not processes_of(tmp_path), SECONDS)
        stopped = stopped_after(output)
        assert stopped >= before + 3
        before = stopped
    assert start(f"--max_steps={before + 3}", "--resume=1", ranks=2).wait(SECONDS) == 0
    assert start(f"--max_steps={before + 3}", name="whole", ranks=2).wait(SECONDS) == 0
    assert_same(output, tmp_path / "whole")


def test_a_hangup_that_is_ignored_from_the_start_changes_nothing(start, tmp_path):
    output = tmp_path / "out"
    process = start("--max_steps=200", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # as nohup does
    wait_until(lambda: steps_logged(output) >= 1, SECONDS)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(SECONDS) == 0 and steps_saved(output) == 200
    assert "stopped by a signal" not in (output / "training.log").read_text()


def test_a_closed_terminal_stops_and_saves(start, tmp_path):
    ours, theirs = os.openpty()
    output = tmp_path / "out"

    def own_terminal():
        import fcntl
        import termios

        hangups_end_it()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = start(stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_terminal)
    os.close(theirs)
    wait_until(lambda: steps_logged(output) >= 3, SECONDS)
    os.close(ours)  # the kernel sends SIGHUP, and whatever is written from here on fails with EIO
    assert process.wait(SECONDS) == 0
    stopped_after(output)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_survives_closed_output(start, tmp_path, terminal):
    ours, theirs = os.openpty() if terminal else os.pipe()
    output = tmp_path / "out"
    process = start("--max_steps=200", stdout=theirs, stderr=theirs)
    os.close(theirs)
    wait_until(lambda: steps_logged(output) >= 1, SECONDS)
    os.close(ours)  # EIO from a terminal, EPIPE from a pipe
    assert process.wait(SECONDS) == 0 and steps_saved(output) == 200


# A launcher whose rank heeds no SIGTERM; all of a rank but what it would compute.
DEAF_RANK = """
import os, signal, time
from arcface.system import processes
processes.SECONDS_TO_STOP = processes.POLL_SECONDS = 0.5
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"asked to stop\\n"))  # print may be interrupted by itself
processes.die_with_launcher()
print("a rank", flush=True)
ends = time.monotonic() + 120
while time.monotonic() < ends:
    time.sleep(1)
"""

LAUNCHER = f"""{HAS_PADDLE}
rank = {{"POD_NAME": "abc", "PADDLE_LOCAL_SIZE": "1", "PADDLE_TRAINER_ID": "0", "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:1"}}
subprocess.run([*sys.argv[1:]], env={{**os.environ, **rank}})
"""


@pytest.mark.parametrize("through", [[], ["sh", "-c", '"$@"; exit $?', "sh"]])  # a script in between lives on
def test_a_rank_that_does_not_stop_is_killed_by_itself_when_its_launcher_has_ended(repository, through):
    command = [sys.executable, "-c", LAUNCHER, *through, sys.executable, "-c", DEAF_RANK]
    launcher = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": str(repository)}
    )
    try:
        assert launcher.stdout.readline() == "a rank\n"
        launcher.kill()
        said, _ = launcher.communicate(timeout=SECONDS)  # until the rank has ended
        assert said == "asked to stop\n"
    finally:
        try:
            os.killpg(launcher.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        launcher.wait(SECONDS)
