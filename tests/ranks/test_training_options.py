"""Whole runs with --freeze, --optimizer adamw, --head_lr_scale and --patience."""

import re
from pathlib import Path

import numpy as np
import paddle
import pytest

from arcface.training.checkpoint import Checkpoint
from tests.ranks.test_training import HELPERS, NETWORK, arguments, data_set, losses, records, train  # noqa: F401  (two fixtures)

RANKS = pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
TRAINED = 8 * 3 * 7 * 7 + 3 * 8 + 128 * 128 + 128  # parameters of Tiny


def arrays(output: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by file and name, those of the ranks' classes by file."""
    found = {}
    for file in (output / "latest").iterdir():
        if file.suffix == ".pdparams":
            state = paddle.load(str(file), return_numpy=True)
            found |= {f"{file.name} {name}": array for name, array in state.items() if isinstance(array, np.ndarray)}
        elif file.suffix == ".pkl":
            found[file.name] = np.load(file, allow_pickle=True)
    return found


def log(output: Path) -> str:
    return (output / "training.log").read_text()


@RANKS
def test_a_run_with_adamw_and_a_frozen_stage_is_resumed_bit_for_bit(train, ranks):  # noqa: F811
    options = ["--optimizer=adamw", "--freeze=block", "--head_lr_scale=10", "--schedule=cosine", "--num_epoch=2", "--lr=0.01"]
    whole = train(ranks, "whole", *options)
    train(ranks, "parts", *options, "--max_steps=3")
    resumed = train(ranks, "parts", *options, "--resume=1")
    one, other = arrays(whole), arrays(resumed)
    assert one.keys() == other.keys() and [name for name in one if not np.array_equal(one[name], other[name])] == []
    assert one[f"{NETWORK}_steps.pdparams linear.weight"] == [8] and f"{NETWORK}_second_moment.pdparams linear.bias" in one
    assert losses(whole) == losses(resumed) and "start anew" not in log(resumed)
    rates = [(record["lr_backbone"], record["lr_head"]) for record in records(resumed)]
    assert all(head == 10 * rate for rate, head in rates)
    line = re.findall(r"lr_backbone_value: (\S+), lr_pfc_value: (\S+)", log(resumed))[-1]
    assert [float(rate) for rate in line] == pytest.approx(rates[-1], abs=1e-6)


def test_the_head_is_trained_first_and_then_all(train):  # noqa: F811
    options = ["--num_epoch=5", "--lr=0.01"]
    first = arrays(train(1, "run", *options, "--freeze=backbone", "--max_steps=1"))
    second = arrays(train(2, "run", *options, "--freeze=backbone", "--max_steps=3", "--resume=1"))
    backbone = [name for name in first if name.startswith(f"{NETWORK}.pdparams")]
    assert len(backbone) == 8 and all(np.array_equal(first[name], second[name]) for name in backbone)
    third = arrays(run := train(2, "run", *options, "--max_steps=5", "--resume=1"))
    assert not any(np.array_equal(second[name], third[name]) for name in backbone)
    said = log(run)
    assert said.count(f"--freeze backbone: 0 of the backbone's {TRAINED} parameters are trained") == 2
    assert f"{run} is of a run with other options: these start anew: the momentum of 6 of 6 trained tensors" in said
    assert said.count("start anew") == 1 and list(losses(run)) == [1, 2, 3, 4, 5]


@pytest.mark.exhaustive
def test_two_ranks_with_a_frozen_stage_train_like_one(train):  # noqa: F811
    options = ["--freeze=linear", "--batch_norm=sync", "--max_steps=8", "--num_epoch=10", "--lr=0.01"]
    one, two = (losses(train(ranks, str(ranks), *options)) for ranks in (1, 2))
    assert len(one) == 8 and list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)


@RANKS
@pytest.mark.parametrize("put_off", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_run_ends_when_its_patience_does_and_a_resumed_one_counts_on(
    train,  # noqa: F811
    run_ranks,
    data_set,  # noqa: F811
    tmp_path,
    ranks,
    put_off,
):
    options = ["--patience=2", "--val_targets=tiny", "--val_interval=1", "--num_epoch=5", "--lr=0", "--batch_norm=frozen"]
    if put_off:  # by a signal, the verification of the third step, which is then the first of the resumed run
        run_ranks(ranks, HELPERS / "signal_worker.py", 0, "SIGTERM@2", *arguments(data_set, tmp_path / "run"), *options)
    else:
        train(ranks, "run", *options, "--max_steps=2")
    output = train(ranks, "run", *options, "--resume=1")
    (end,) = re.findall(r"ended after step .*", log(output))
    highest = re.findall(r"Accuracy-Highest: (\S+)", log(output))
    assert end == (
        "ended after step 3, which is saved: 2 verifications without a new best on tiny (--patience 2);"
        f" the best is {highest[0]} at step 1"
    )
    progress = Checkpoint(output).manifest["progress"]
    assert len(highest) == 3 and (progress["step"], progress["without_best"]) == (3, 2)
