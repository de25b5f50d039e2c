"""A run that is stopped, killed or disturbed loses nothing, and two runs do not write into one directory."""

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
from forks import Fork, start_ranks, wait_until
from run_state import processes_of, steps_logged

import train
from arcface.head.partial_fc import PartialFC
from arcface.system.processes import SECONDS_TO_STOP
from arcface.training.checkpoint import Checkpoint

HELPERS = Path(__file__).parents[1] / "helpers"

NETWORK = "Tiny"
STEPS = 21  # of three epochs
SECONDS_TO_END = SECONDS_TO_STOP + 30  # that ranks have when their launcher is killed: they end themselves after SECONDS_TO_STOP


@pytest.fixture(scope="module")
def data_set(make_data_set):
    return make_data_set(28, 7)


@pytest.fixture
def options(data_set, tmp_path):
    return [
        f"--data_dir={data_set}",
        f"--output={tmp_path / 'out'}",
        f"--logdir={tmp_path / 'log'}",
        "--device=cpu",
        f"--network={NETWORK}",
        "--val_targets=",
        "--batch_size=4",
        "--log_interval=1",
        "--lr=0.4",
        "--num_workers=1",
    ]


@pytest.fixture
def start(start_fork, fork_server, repository, options):
    """Returns a function that starts train.py with options in some ranks, without a launcher; returns the ranks' processes.

    `signals` are those that the last rank gets, such as "SIGTERM@2" with its second step.
    """

    def run(*more: str, ranks: int = 1, signals: str = "") -> list[Fork]:
        script = [HELPERS / "signal_worker.py", ranks - 1, signals] if signals else [repository / "train.py"]
        return start_ranks(fork_server, ranks, *script, *options, *more)

    return run


@pytest.fixture
def start_launcher(launch, options):
    """Returns a function that starts the same in two ranks under Paddle's launcher; returns the launcher's process."""
    return lambda *more: launch(2, HELPERS / "tiny_train.py", *options, *more)


def run_to_end(processes: list[Fork]) -> str:
    """Wait for the ranks, all of which must succeed; return what rank 0 printed."""
    for process in processes:
        assert process.wait(120) == 0, process.stdout + process.stderr
    return processes[0].stdout


def weights(output: Path) -> dict[str, np.ndarray]:
    return paddle.load(str(output / f"{NETWORK}.pdparams"), return_numpy=True)


def losses(log: Path) -> dict[int, float]:
    records = map(json.loads, (log / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.parametrize("number, to_all", [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(start, tmp_path, number, to_all):
    (process,), output = start("--num_epoch=1000"), tmp_path / "out"
    wait_until(lambda: steps_logged(output) >= 2)
    (os.killpg if to_all else os.kill)(process.pid, number)
    printed = run_to_end([process])
    step = Checkpoint(output).manifest["progress"]["step"]
    assert step == steps_logged(output) and printed.rstrip().endswith(
        f"stopped by a signal after step {step}, which is saved; the same command with --resume 1 continues"
    )


def assert_same_as_undisturbed(start, tmp_path: Path, ranks: int) -> None:
    """What was stopped and resumed into tmp_path / "out" has the losses and weights of a run that nobody stopped."""
    run_to_end(start("--num_epoch=3", f"--output={tmp_path / 'whole'}", f"--logdir={tmp_path / 'whole_log'}", ranks=ranks))
    its_losses = losses(tmp_path / "log")
    assert its_losses == losses(tmp_path / "whole_log") and len(its_losses) == STEPS
    stopped, expected = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert all(np.array_equal(stopped[name], expected[name]) for name in expected if isinstance(expected[name], np.ndarray))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(start, tmp_path, ranks):
    """One of the ranks gets the signal, and all of them stop after the next step."""
    run_to_end(start("--num_epoch=3", ranks=ranks, signals="SIGTERM@4"))
    assert Checkpoint(tmp_path / "out").manifest["progress"]["step"] == 5
    run_to_end(start("--num_epoch=3", "--resume=1", ranks=ranks))
    assert_same_as_undisturbed(start, tmp_path, ranks)


def test_a_signal_to_the_launcher_stops_its_ranks_which_save(start_launcher, tmp_path):
    process, output = start_launcher("--num_epoch=1000"), tmp_path / "out"
    wait_until(lambda: steps_logged(output) >= 2)
    process.terminate()
    process.communicate(timeout=60)
    assert Checkpoint(output).manifest["progress"]["step"] == steps_logged(output)
    assert "stopped by a signal after step" in (output / "training.log").read_text()
    wait_until(lambda: not processes_of(output))


@pytest.mark.exhaustive
def test_a_run_that_was_stopped_under_the_launcher_goes_on_as_if_it_had_not_been(start_launcher, tmp_path):
    def run(*more: str) -> None:
        process = start_launcher("--num_epoch=60", *more)  # 420 steps
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed

    process, output = start_launcher("--num_epoch=60"), tmp_path / "out"
    wait_until(lambda: steps_logged(output) >= 3)
    process.terminate()
    process.communicate(timeout=60)
    assert 3 <= Checkpoint(output).manifest["progress"]["step"] < 420
    run("--resume=1")
    run(f"--output={tmp_path / 'whole'}", f"--logdir={tmp_path / 'whole_log'}")
    assert losses(tmp_path / "log") == losses(tmp_path / "whole_log")
    stopped, expected = weights(output), weights(tmp_path / "whole")
    assert all(np.array_equal(stopped[name], expected[name]) for name in expected if isinstance(expected[name], np.ndarray))


def test_sigusr1_saves_now_and_the_run_goes_on(start, tmp_path):
    (process,) = start("--num_epoch=1", signals="SIGUSR1@2,SIGKILL@5")  # without the first signal, only step 7 is saved
    assert process.wait(120) == -signal.SIGKILL
    assert Checkpoint(tmp_path / "out").manifest["progress"]["step"] == 3 and steps_logged(tmp_path / "out") == 4


def test_a_second_run_into_the_same_directory_is_refused_until_the_first_is_dead(start, tmp_path):
    (first,), output = start("--num_epoch=1000"), tmp_path / "out"
    wait_until(lambda: steps_logged(output) >= 1)
    (second,) = start("--num_epoch=1", f"--logdir={tmp_path / 'other'}")
    assert second.wait(120) == 2 and f"--output {output}: process {first.pid} on " in second.stderr, second.stderr
    assert "is writing here; wait, end it or choose another --output" in second.stderr and not (tmp_path / "other").exists()
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    run_to_end(start("--num_epoch=1", "--max_steps=1"))


def process_of(output: Path, rank: int) -> int:
    """A rank's training process, which is older than its workers."""
    return min(
        pid for pid in processes_of(output) if f"PADDLE_TRAINER_ID={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    )


def test_ranks_do_not_outlive_their_launcher(start_launcher, tmp_path):
    process, output = start_launcher("--num_epoch=1000"), tmp_path / "out"
    wait_until(lambda: steps_logged(output) >= 1)
    assert len(processes_of(output)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(output), SECONDS_TO_END)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.exhaustive)])
def test_a_rank_that_is_lost_ends_the_whole_run_with_its_checkpoint_whole(start, start_launcher, tmp_path, number):
    process, output = start_launcher("--num_epoch=1000", "--save_interval=1", "--rank_timeout=10"), tmp_path / "out"
    wait_until(lambda: steps_logged(output) >= 2)
    os.kill(process_of(output, 1), number)
    process.communicate(timeout=90)
    assert process.returncode != 0
    wait_until(lambda: not processes_of(output), SECONDS_TO_END)
    # The launcher may take note of a killed rank before rank 0 looks how it ended.
    killed = "(was killed by signal 9, perhaps out of memory|has ended); see its log"
    reason = killed if number == signal.SIGKILL else "sent no heartbeat for 10 s"
    assert re.search(f"error: rank 0 ends: rank 1 {reason}", (tmp_path / "launch" / "workerlog.0").read_text())
    step = Checkpoint(output).manifest["progress"]["step"]
    assert step >= 1
    run_to_end(start("--num_epoch=1000", f"--max_steps={step + 2}", "--resume=1", ranks=2))


def test_a_rank_that_is_killed_in_its_backward_pass_is_named(start):
    first, second = start("--max_steps=9", "--rank_timeout=60", ranks=2, signals="SIGKILL@2b")
    assert second.wait(120) == -signal.SIGKILL and first.wait(120) == 1
    assert re.search(
        "error: rank 0 ends: rank 1 (was killed by signal 9, perhaps out of memory|has ended); see its log", first.stderr
    )
    assert "terminate called" not in first.stderr


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
def test_thirty_kills_at_random_moments_lose_nothing(repository, start_process):
    command = [sys.executable, repository / "benchmarks" / "kill_soak.py", "--kills=30"]
    process = start_process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    printed, _ = process.communicate(timeout=1400)
    assert process.returncode == 0 and "30 of 30 kills survived" in printed, printed


# a loss or gradient that is not finite


@pytest.fixture
def train_here(monkeypatch, options, tiny):
    """Returns a function that trains in this process; from step `bad` on, `count` losses are infinite."""
    real = PartialFC.loss

    def run(*more: str, bad: int = -1, count: int = 1) -> None:
        def loss(self, embeddings, labels, step, *others):
            return real(self, embeddings * np.inf if bad <= step < bad + count else embeddings, labels, step, *others)

        monkeypatch.setattr(PartialFC, "loss", loss)
        monkeypatch.setattr(sys, "argv", ["train.py", *options, "--num_workers=0", *more])
        train.main()

    return run


def test_a_bad_step_stops_before_its_update_and_leaves_the_checkpoint(train_here, refused, tmp_path, data_set):
    output = tmp_path / "out"
    complaint = refused(lambda: train_here("--max_steps=5", "--save_interval=1", bad=2))
    assert "the loss is not finite at step 3 (rate 0.00133929, scale 64; " in complaint
    assert "the weights were not updated and the last checkpoint is intact" in complaint and "lower --lr" in complaint
    assert Checkpoint(output).manifest["progress"]["step"] == 2
    assert all(np.isfinite(array).all() for array in weights(output).values() if isinstance(array, np.ndarray))
    known = json.loads((output / "nonfinite_step_00000003_rank_0.json").read_text())
    assert known["step"] == 3 and known["loss"] in ("nan", "inf") and known["bad_tensor"] == "the loss" and known["scale"] == 64
    assert len(known["images"]) == 4 and all(f"{data_set}/label.txt line " in name for name in known["images"])


def test_a_bad_weight_is_named(train_here, refused, tmp_path, monkeypatch):
    from arcface.training.model import Model

    real = Model.forward

    def spoiled(self, batch, step):
        if step == 1:
            weight = self.backbone.block.conv.weight
            weight.set_value(weight * np.inf)
        return real(self, batch, step)

    monkeypatch.setattr(Model, "forward", spoiled)
    assert "the weight block.conv.weight is not finite at step 2" in refused(lambda: train_here("--max_steps=3"))


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
    from arcface.training import checkpoint_files

    real, calls = checkpoint_files.write_new, []

    def full_for_a_while(path, content):
        if "step_00000002" in str(path):
            calls.append(path)
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(checkpoint_files, "write_new", full_for_a_while)
    options = ["--max_steps=3", "--save_interval=1", f"--on_save_error={policy}"]
    if policy == "stop":
        assert "step 2 cannot be written (No space left on device)" in refused(lambda: train_here(*options))
        assert Checkpoint(tmp_path / "out").manifest["progress"]["step"] == 1
    else:
        train_here(*options)
        assert Checkpoint(tmp_path / "out").manifest["progress"]["step"] == 3
        assert "step 2 cannot be written (No space left on device)" in (tmp_path / "out" / "training.log").read_text()
    assert calls
