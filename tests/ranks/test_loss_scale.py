"""Runs in fp16 with overflows on one rank: all ranks leave the step out, and a resumed run knows the scale."""

import json
from pathlib import Path

import numpy as np
import pytest

from arcface.head.shards import shard_of
from arcface.training.checkpoint import Checkpoint

HELPERS = Path(__file__).parents[1] / "helpers"
CLASSES = 7


def progress(output: Path) -> dict:
    known = json.loads((output / "checkpoint.json").read_text())["progress"]
    return {name: known[name] for name in ("step", "loss_scale", "steps_at_scale", "skipped", "loss_count")}


def arrays(output: Path) -> list[np.ndarray]:
    state = Checkpoint(output).load("Tiny", shard_of(CLASSES, 0, 1))
    return [*state.backbone.values(), *state.averages["momentum"].values(), state.centres, state.centres_velocity]


MORE = [pytest.param(ranks, order, marks=pytest.mark.exhaustive) for ranks, order in ((1, "cpu"), (1, "gpu"), (2, "cpu"))]


@pytest.mark.parametrize("ranks, order", [(2, "gpu"), *MORE])
def test_a_resumed_run_with_overflows_on_one_rank_equals_the_uninterrupted_one(run_ranks, make_data_set, tmp_path, ranks, order):
    directory = make_data_set(28, CLASSES)

    def train(name: str, *options) -> Path:
        output = tmp_path / name
        common = ["--data_dir", directory, "--output", output, "--logdir", output / "log", "--val_targets=", "--engine=paddle"]
        common += [
            "--network=Tiny",
            "--batch_size=8",
            "--num_workers=0",
            "--device=cpu",
            "--num_epoch=2",
            "--save_interval=7",
            "--cpu_kernels=off",
        ]
        run_ranks(ranks, HELPERS / "overflow_worker.py", "2,5", order, *common, *options)
        return output

    whole = train("whole")
    assert (progress(whole)["step"], progress(whole)["loss_scale"]) == (8, 8.0)  # from 16, halved twice and doubled once
    parts = train("parts", "--max_steps=7")
    known = progress(parts)
    assert (known["loss_scale"], known["steps_at_scale"], known["skipped"]) == (4.0, 2, 0)
    train("parts", "--resume=1")
    assert progress(parts) == progress(whole)
    assert all(map(np.array_equal, arrays(parts), arrays(whole)))
    log = (whole / "training.log").read_text()
    assert "the backbone trains in fp16, emulated" in log
    assert [line.partition("-overflow")[2] for line in log.splitlines() if "-overflow" in line] == [
        f" in fp16 at step {step}, which was not taken; loss scale {scale} from now on" for step, scale in ((2, 8), (5, 4))
    ]
    assert not list(parts.glob("nonfinite_*"))
