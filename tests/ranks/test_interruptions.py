"""A run that is stopped, killed or disturbed loses nothing, and two runs do not write into one directory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest

import train
from arcface.head.partial_fc import PartialFC
from arcface.training.checkpoint import Checkpoint

HELPERS = Path(__file__).parents[1] / "helpers"

NETWORK = "MobileFaceNet_128"


@pytest.fixture(scope="module")
def data_set(make_data_set):
    return make_data_set(28, 7)


@pytest.fixture
def options(data_set, tmp_path):
    return [f"--data_dir={data_set}", f"--output={tmp_path / 'out'}", f"--logdir={tmp_path / 'log'}", "--device=cpu",
            "--val_targets=", "--batch_size=4", "--log_interval=1", "--lr=0.4", "--num_workers=1"]  # fmt: skip


@pytest.fixture
def start(repository, options, tmp_path):
    """Returns a function that starts train.py with options, in a process group of its own; all are killed at the end."""
    groups = []

    def run(*more: str, ranks: int = 1) -> subprocess.Popen:
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", str(tmp_path / "launch")]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        process = subprocess.Popen([sys.executable, *(launch if ranks > 1 else []), "train.py", *options, *more], cwd=repository,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                   env=environment)  # fmt: skip
        groups.append(process.pid)
        return process

    yield run
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_for(condition, seconds: float = 120):
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.05)
    return found


def steps_logged(output: Path) -> int:
    log = output / "training.log"
    steps = re.findall(r"Global Step: (\d+)", log.read_text()) if log.exists() else []
    return int(steps[-1]) if steps else 0


def weights(output: Path) -> dict[str, np.ndarray]:
    return paddle.load(str(output / f"{NETWORK}.pdparams"), return_numpy=True)


def losses(log: Path) -> dict[int, float]:
    records = map(json.loads, (log / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.parametrize("number, to_all", [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(start, tmp_path, number, to_all):
    process, output = start("--num_epoch=1000"), tmp_path / "out"
    wait_for(lambda: steps_logged(output) >= 2)
    (os.killpg if to_all else os.kill)(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    step = Checkpoint(output).manifest["progress"]["step"]
    assert step == steps_logged(output) and printed.rstrip().endswith(
        f"stopped by a signal after step {step}, which is saved; the same command with --resume 1 goes on")  # fmt: skip


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(start, tmp_path, ranks):
    output = tmp_path / "out"
    process = start("--num_epoch=3", ranks=ranks)  # 21 steps
    wait_for(lambda: steps_logged(output) >= 3)
    process.terminate()
    process.communicate(timeout=60)
    stopped = Checkpoint(output).manifest["progress"]["step"]
    assert 3 <= stopped < 21
    assert start("--num_epoch=3", "--resume=1", ranks=ranks).wait(300) == 0
    interrupted, its_losses = weights(output), losses(tmp_path / "log")
    whole = ["--num_epoch=3", f"--output={tmp_path / 'whole'}", f"--logdir={tmp_path / 'whole_log'}"]
    assert start(*whole, ranks=ranks).wait(300) == 0
    assert its_losses == losses(tmp_path / "whole_log") and len(its_losses) == 21
    expected = weights(tmp_path / "whole")
    assert all(np.array_equal(interrupted[name], expected[name]) for name in expected if isinstance(expected[name], np.ndarray))


def test_sigusr1_saves_now_and_the_run_goes_on(start, tmp_path):
    output = tmp_path / "out"
    process = start("--num_epoch=1", "--max_steps=6")  # without the signal, only step 6 is saved
    wait_for(lambda: steps_logged(output) >= 1)
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: (output / "latest").exists())
    assert Checkpoint(output).manifest["progress"]["step"] < 6
    assert process.wait(120) == 0
    assert Checkpoint(output).manifest["progress"]["step"] == 6


def test_a_second_run_into_the_same_directory_is_refused_until_the_first_is_dead(start, tmp_path):
    output = tmp_path / "out"
    first = start("--num_epoch=1000")
    wait_for(lambda: steps_logged(output) >= 1)
    second = start("--num_epoch=1", f"--logdir={tmp_path / 'other'}")
    printed, _ = second.communicate(timeout=120)
    assert second.returncode == 2 and f"--output {output}: process {first.pid} on " in printed, printed
    assert "is writing here; wait, end it or choose another --output" in printed and not (tmp_path / "other").exists()
    assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.wait(30)
    assert start("--num_epoch=1", "--max_steps=1").wait(120) == 0


def alive(output: Path) -> list[int]:
    """The processes of a run: launcher, ranks and their workers."""
    lines = subprocess.run(["ps", "-ewwo", "pid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if str(output) in line and line.split()[1][0] != "Z"]


def process_of(output: Path, rank: int) -> int:
    """A rank's training process, which is older than its workers."""
    return min(pid for pid in alive(output) if f"PADDLE_TRAINER_ID={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes())


def test_ranks_do_not_outlive_their_launcher(start, tmp_path):
    process, output = start("--num_epoch=1000", ranks=2), tmp_path / "out"
    wait_for(lambda: steps_logged(output) >= 1)
    assert len(alive(output)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not alive(output), 30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_lost_ends_the_whole_run_with_its_checkpoint_whole(start, tmp_path, number):
    process, output = start("--num_epoch=1000", "--save_interval=1", "--rank_timeout=10", ranks=2), tmp_path / "out"
    wait_for(lambda: steps_logged(output) >= 2)
    os.kill(process_of(output, 1), number)
    process.communicate(timeout=90)
    assert process.returncode != 0
    wait_for(lambda: not alive(output), 10)
    reason = "has ended; its log says why" if number == signal.SIGKILL else "did not answer for 10 seconds"
    assert f"error: rank 0 ends: rank 1 {reason}" in (tmp_path / "launch" / "workerlog.0").read_text()
    assert Checkpoint(output).manifest["progress"]["step"] >= 1
    assert start("--num_epoch=1000", "--max_steps=3", "--resume=1", ranks=2).wait(120) == 0


def test_thirty_kills_at_random_moments_lose_nothing(repository):
    command = [sys.executable, repository / "benchmarks" / "kill_soak.py", "--kills=30"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "30 of 30 kills survived" in done.stdout, done.stdout + done.stderr


# a loss or gradient that is not finite


@pytest.fixture
def train_here(monkeypatch, options):
    """Returns a function that trains in this process; from step `bad` on, `count` losses are infinite."""
    real = PartialFC.loss

    def run(*more: str, bad: int = -1, count: int = 1) -> None:
        def loss(self, embeddings, labels, step):
            return real(self, embeddings * np.inf if bad <= step < bad + count else embeddings, labels, step)

        monkeypatch.setattr(PartialFC, "loss", loss)
        monkeypatch.setattr(sys, "argv", ["train.py", *options, "--num_workers=0", *more])
        train.main()

    return run


def test_a_bad_step_stops_before_its_update_and_leaves_the_checkpoint(train_here, refused, tmp_path, data_set):
    output = tmp_path / "out"
    complaint = refused(lambda: train_here("--max_steps=5", "--save_interval=1", bad=2))
    assert "the loss is not finite at step 3 (rate 0.00133929, scale 64; " in complaint
    assert "nothing was updated" in complaint and "lower --lr" in complaint
    assert Checkpoint(output).manifest["progress"]["step"] == 2
    assert all(np.isfinite(array).all() for array in weights(output).values() if isinstance(array, np.ndarray))
    known = json.loads((output / "nonfinite_step_00000003_rank_0.json").read_text())
    assert known["step"] == 3 and known["loss"] in ("nan", "inf") and known["bad_tensor"] == "the loss" and known["scale"] == 64
    assert len(known["images"]) == 4 and all(f"{data_set}/label.txt line " in name for name in known["images"])


def test_a_bad_weight_is_named(train_here, refused, tmp_path, monkeypatch):
    from arcface.training.model import Model

    real = Model.compute_gradients

    def spoiled(self, images, labels, step):
        if step == 1:
            weight = self.backbone.conv2.conv.weight
            weight.set_value(weight * np.inf)
        return real(self, images, labels, step)

    monkeypatch.setattr(Model, "compute_gradients", spoiled)
    assert "the weight conv2.conv.weight is not finite at step 2" in refused(lambda: train_here("--max_steps=3"))


def test_skipped_steps_change_nothing_and_are_limited(train_here, refused, tmp_path):
    common = ["--max_steps=3", "--save_interval=1", "--on_nonfinite=skip:2"]
    train_here(*common, "--batch_norm=local", bad=1, count=2)  # only the first of three steps is taken
    skipped, progress = weights(tmp_path / "out"), Checkpoint(tmp_path / "out").manifest["progress"]
    assert (progress["step"], progress["skipped"]) == (3, 2) and (tmp_path / "out" / "nonfinite_step_00000002_rank_0.json").exists()
    train_here("--max_steps=1", f"--output={tmp_path / 'one'}", f"--logdir={tmp_path / 'one_log'}")
    expected = weights(tmp_path / "one")
    assert all(np.array_equal(skipped[name], expected[name]) for name in expected if isinstance(expected[name], np.ndarray))
    log = (tmp_path / "out" / "training.log").read_text()
    assert "skipped, 2 of 2" in log and re.findall(r"Loss (\S+)", log)[1:] == ["nan", "nan"]  # no figure is made up
    assert list(losses(tmp_path / "log")) == [1]
    complaint = refused(lambda: train_here("--max_steps=5", "--on_nonfinite=skip:2", "--resume=1", bad=4))
    assert "not finite at step 5" in complaint


def test_ranks_stop_together_when_one_has_a_bad_step(run_ranks, options, tmp_path):
    done = run_ranks(2, HELPERS / "bad_step_worker.py", *options, "--max_steps=5", check=False)
    assert done.returncode != 0
    for rank in range(2):
        known = json.loads((tmp_path / "out" / f"nonfinite_step_00000002_rank_{rank}.json").read_text())
        assert known["step"] == 2 and known["rank"] == rank and known["bad_tensor"]
    assert not (tmp_path / "out" / "latest").exists()


# checkpoints that cannot be written


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_full_disk_stops_the_run_or_not_as_chosen(train_here, refused, tmp_path, monkeypatch, policy):
    from arcface.training import checkpoint

    real, calls = checkpoint.write_new, []

    def full_for_a_while(path, content):
        if "step_00000002" in str(path):
            calls.append(path)
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_new", full_for_a_while)
    options = ["--max_steps=3", "--save_interval=1", f"--on_save_error={policy}"]
    if policy == "stop":
        assert "step 2 cannot be written (No space left on device)" in refused(lambda: train_here(*options))
        assert Checkpoint(tmp_path / "out").manifest["progress"]["step"] == 1
    else:
        train_here(*options)
        assert Checkpoint(tmp_path / "out").manifest["progress"]["step"] == 3
        assert "step 2 cannot be written (No space left on device)" in (tmp_path / "out" / "training.log").read_text()
    assert calls
