"""What a run says of its batch and of memory, in its log or as its end."""

import subprocess
import sys
from pathlib import Path

import pytest

from arcface.config import TrainConfig
from arcface.training import trainer

LIMITED = """
import resource, sys
from arcface.system.startup import start_paddle
start_paddle()
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
import train
from arcface.command import run
run(train.main)
"""


@pytest.fixture
def log(tiny, make_data_set, tmp_path):
    """Returns a function that trains a step on six images, and returns the log."""

    def train(batch_size: int) -> str:
        options = {"network": "Tiny", "embedding_size": 8, "device": "cpu", "cpu_kernels": "off", "num_workers": 0, "max_steps": 1}
        places = {name: str(tmp_path / name) for name in ("output", "logdir")}
        data_set = {"data_dir": str(make_data_set(6, 2)), "val_targets": "", "batch_size": batch_size}
        trainer.train(TrainConfig(**options, **places, **data_set))
        return (tmp_path / "output" / "training.log").read_text()

    return train


def test_a_batch_larger_than_the_data_set_is_told_with_its_fillers(log):
    line = next(line for line in log(8).splitlines() if "padding" in line)
    assert "--batch_size 8 is more than the 6 images of " in line
    assert line.endswith("2 places are padding that takes time and memory and does not count; use --batch_size 6 or less")


def test_a_batch_as_large_as_the_data_set_is_not_told(log):
    assert "padding" not in log(6)


def test_what_is_said_of_memory_is_in_the_log(log, monkeypatch):
    monkeypatch.setattr(trainer, "check_memory", lambda *_: "a lot of memory is needed")
    assert "-a lot of memory is needed\n" in log(6)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_memory_that_runs_out_under_a_limit_is_one_line(repository, make_data_set, tmp_path, kernels):
    options = (
        f"--data_dir={make_data_set(6, 2)} --val_targets= --batch_size=128 --num_workers=0 --cpu_kernels={kernels} --device=cpu"
    )
    command = [sys.executable, "-c", LIMITED, *options.split(), f"--output={tmp_path}/out", f"--logdir={tmp_path}/log"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: out of memory (") and done.stderr.count("\n") == 1, done.stderr
    assert "use a smaller --batch_size than 128" in done.stderr
    assert not list(Path(tmp_path, "out").glob("step_*"))
