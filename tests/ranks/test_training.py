"""Whole runs: equal over ranks, resumed bit for bit, logged as promised."""

import fcntl
import json
import os
import pickle
import pty
import re
import shutil
import signal
import struct
import sys
import termios
from pathlib import Path

import numpy as np
import paddle
import pytest

from arcface.head.shards import shard_of
from arcface.training.checkpoint import Checkpoint
from arcface.training.profile import can_record

HELPERS = Path(__file__).parents[1] / "helpers"

NETWORK = "Tiny"
TRAINING_LINE = re.compile(
    r"Training: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}-Speed \d+\.\d\d samples/sec   Loss \d+\.\d{4}   Epoch: \d+   "
    r"Global Step: \d+   Required: \d+ hours, lr_backbone_value: \d\.\d{6}, lr_pfc_value: \d\.\d{6}"
)
VERIFICATION_LINES = [
    re.compile(r"Training: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}-" + rest)
    for rest in (
        r"\[tiny\]\[\d+\]XNorm: \d+\.\d{6}",
        r"\[tiny\]\[\d+\]Accuracy-Flip: \d\.\d{5}\+-\d\.\d{5}",
        r"\[tiny\]\[\d+\]Accuracy-Highest: \d\.\d{5}",
    )
]


@pytest.fixture(scope="module")
def data_set(make_data_set):
    """28 images of 7 identities (7 steps of 4, or 3.5 of 8) and a verification set of 12 pairs."""
    directory = make_data_set(28, 7)
    images = [(directory / "images" / f"{index:08d}.jpg").read_bytes() for index in range(24)]
    with open(directory / "tiny.bin", "wb") as file:
        pickle.dump((images, [True, False] * 6), file)
    return directory


@pytest.fixture(params=[NETWORK, pytest.param("MobileFaceNet_128", marks=pytest.mark.exhaustive)])
def network(request, monkeypatch):
    """For promises that a real network could break."""
    monkeypatch.setitem(globals(), "NETWORK", request.param)


@pytest.fixture
def train(run_ranks, repository, data_set, tmp_path):
    """Returns a function that trains into a directory of this name, and returns the directory."""

    def run(ranks: int, name: str, *options) -> Path:
        output = tmp_path / name
        run_ranks(ranks, repository / "train.py", *arguments(data_set, output), *options)
        return output

    return run


def arguments(data_set: Path, output: Path) -> list[str]:
    return [
        "--data_dir",
        str(data_set),
        "--output",
        str(output),
        "--logdir",
        str(output / "log"),
        "--device",
        "cpu",
        f"--network={NETWORK}",
        "--val_targets=",
        "--engine=paddle",
        "--batch_size=8",
        "--log_interval=1",
        "--lr=0.4",
        "--num_workers=1",
    ]


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "log" / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in records(output) if record["kind"] == "training"}


def arrays(output: Path, ranks: int) -> dict[str, np.ndarray]:
    """All weights and momentum of a run's checkpoint; the ranks' rows put together."""
    result = {}
    parts = [NETWORK, f"{NETWORK}_momentum", *([f"{NETWORK}_ema"] if (output / f"{NETWORK}_ema.pdparams").exists() else [])]
    for part in parts:
        state = paddle.load(str(output / f"{part}.pdparams"), return_numpy=True)
        result |= {f"{part} {name}": array for name, array in state.items() if isinstance(array, np.ndarray)}
    for kind in ("weight", "weight_mom"):
        rows = [pickle.loads((output / f"rank:{rank}_softmax_{kind}.pkl").read_bytes()) for rank in range(ranks)]
        result[f"head {kind}"] = np.concatenate(rows)
    return result


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("batch_norm", ["sync", "frozen"])
def test_two_ranks_train_like_one(train, batch_norm):
    # A small rate for a deep network: batches of another size are convolved with other rounding, a few activations then fall
    # on the other side of PReLU's kink, and large steps on 28 images soon blow that up. test_backbones proves the same in float64.
    rate = ["--lr=0.01"] if NETWORK == "Tiny" else ["--lr=0.0001", "--clip_norm=5"]
    options = [f"--batch_norm={batch_norm}", "--max_steps=20", "--num_epoch=10", *rate]
    outputs = [train(ranks, str(ranks), *options) for ranks in (1, 2)]
    one, two = map(losses, outputs)
    assert len(one) == 20 and one.keys() == two.keys()
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)
    assert losses_fall(one, steps_per_epoch=4)
    one, two = arrays(outputs[0], 1), arrays(outputs[1], 2)
    assert one.keys() == two.keys()
    for name in one:
        if "mom" not in name:
            assert np.abs(two[name] - one[name]).max() <= 1e-4 * max(np.abs(one[name]).max(), 0.01), name


@pytest.mark.parametrize(
    "ranks, sample_rate", [(2, 0.1), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in ((1, 0.1), (2, 1.0)))]
)
def test_a_step_in_parts_is_the_whole_step(train, ranks, sample_rate):
    options = ["--batch_norm=frozen", "--max_steps=4", "--num_epoch=2", "--lr=0.01", f"--sample_rate={sample_rate}"]
    whole, in_parts = (train(ranks, f"in {parts}", *options, f"--accumulate={parts}") for parts in (1, 8 // ranks))
    assert list(losses(in_parts).values()) == pytest.approx(list(losses(whole).values()), rel=1e-5)
    whole, in_parts = (arrays(output, ranks) for output in (whole, in_parts))
    for name in whole:
        assert np.abs(in_parts[name] - whole[name]).max() <= 1e-4 * max(np.abs(whole[name]).max(), 0.01), name


def test_blocks_that_are_computed_again_change_no_bit_on_two_ranks(train):
    kept, again = (train(2, f"recompute {on}", "--batch_norm=sync", "--max_steps=3", f"--recompute={on}") for on in (0, 1))
    assert_same_run(kept, again, 2)


def test_a_run_that_resumes_without_an_average_begins_it_with_the_weights(train):
    train(1, "run", "--max_steps=1")
    output = train(1, "run", "--max_steps=2", "--resume=1", "--ema=0.9", "--lr=0", "--batch_norm=frozen")
    (warning,) = [line for line in (output / "training.log").read_text().splitlines() if "start anew" in line]
    assert warning.endswith(f"{output} is of a run with other options: these start anew: the averaged backbone")
    state = arrays(output, 1)
    names = [name for name in state if name.startswith(f"{NETWORK} ")]
    assert len(names) == 8 and all(np.array_equal(state[name], state[name.replace(NETWORK, f"{NETWORK}_ema")]) for name in names)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_first_update_is_the_gradient_clipped_plus_weight_decay(train, ranks):
    common = ["--batch_norm=frozen", "--max_steps=1", "--warmup_epoch=0", "--lr=0.64"]  # a rate of 0.01
    plain = arrays(train(ranks, "plain", *common, "--weight_decay=0"), ranks)
    other = arrays(train(ranks, "other", *common, "--weight_decay=0.1", "--clip_norm=3"), ranks)
    names = [name for name in plain if name.startswith(f"{NETWORK}_momentum")]
    norm = np.sqrt(sum(np.square(plain[name], dtype=np.float64).sum() for name in names))
    assert norm > 6
    for name in names:
        gradient, weight = plain[name], plain[name.replace("_momentum", "")]
        before = weight + 0.01 * gradient  # momentum after one step is the gradient
        expected = gradient * 3 / norm + 0.1 * before
        assert np.abs(other[name] - expected).max() <= 1e-4 * np.abs(expected).max() + 1e-6, name
    before = plain["head weight"] + 0.01 * plain["head weight_mom"]
    expected = plain["head weight_mom"] + 0.1 * before  # the head's is not clipped
    assert np.abs(other["head weight_mom"] - expected).max() <= 1e-4 * np.abs(expected).max()


def test_two_ranks_have_the_gradient_of_one(train):
    one, two = (arrays(train(ranks, str(ranks), "--batch_norm=frozen", "--max_steps=1"), ranks) for ranks in (1, 2))
    for name in one:
        if "mom" in name:
            assert np.linalg.norm(two[name] - one[name]) <= 1e-3 * np.linalg.norm(one[name]), name


def test_another_number_of_ranks_resumes_where_the_first_stopped(train, data_set, tmp_path):
    options = ["--batch_norm=frozen", "--lr=0.0003", "--clip_norm=5"]
    stopped = train(2, "two", *options, "--max_steps=2")
    before = arrays(stopped, 2)
    shutil.copytree(stopped, tmp_path / "one", symlinks=True)
    continued = [train(2, "two", *options, "--max_steps=5", "--resume=1"), train(1, "one", *options, "--max_steps=5", "--resume=1")]
    two, one = map(losses, continued)
    assert list(one) == [1, 2, 3, 4, 5]
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)
    assert not (tmp_path / "one" / "rank:1_softmax_weight.pkl").is_symlink()
    two, one = arrays(continued[0], 2), arrays(continued[1], 1)
    moved = np.linalg.norm(two["head weight"] - before["head weight"])
    assert np.linalg.norm(two["head weight"] - one["head weight"]) < 1e-2 * moved


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_any_change_of_ranks_trains_on_like_one_rank(train, sample_rate):
    """1, 2, 3 and 1 ranks, of whose shards of 7 classes none are equal, two steps each."""
    options = [
        "--batch_norm=sync",
        "--batch_size=12",
        "--num_epoch=3",
        "--lr=0.0001",
        "--clip_norm=5",
        f"--sample_rate={sample_rate}",
    ]
    whole = train(1, "whole", *options, "--max_steps=8")
    for step, ranks in ((2, 1), (4, 2), (6, 3), (8, 1)):
        changing = train(ranks, "changing", *options, f"--max_steps={step}", "--resume=1" if step > 2 else "--resume=0")
        rows = arrays(changing, ranks)
        for others in (1, 2, 3):
            parts = [Checkpoint(changing).load(NETWORK, shard_of(7, rank, others)) for rank in range(others)]
            assert np.array_equal(np.concatenate([part.centres for part in parts]), rows["head weight"])
            assert np.array_equal(np.concatenate([part.centres_velocity for part in parts]), rows["head weight_mom"])
    one, other = losses(whole), losses(changing)
    assert len(one) == 8 and list(other.values()) == pytest.approx(list(one.values()), rel=1e-4)
    one, other = arrays(whole, 1), arrays(changing, 1)
    for name in ("head weight", "head weight_mom"):
        assert np.abs(other[name] - one[name]).max() <= 1e-3 * np.abs(one[name]).max(), name


def test_weights_without_the_rest_of_a_checkpoint_are_gone_on_from(train, tmp_path):
    """The 2021 toolkit writes the backbone and the ranks' class centres only."""
    first = train(2, "first", "--max_steps=2")
    given = arrays(first, 2)
    old = tmp_path / "old"
    old.mkdir()
    for name in (f"{NETWORK}.pdparams", "rank:0_softmax_weight.pkl", "rank:1_softmax_weight.pkl", "rank:1_softmax_weight_mom.pkl"):
        shutil.copyfile(first / name, old / name)
    output = train(3, "old", "--max_steps=1", "--lr=0", "--batch_norm=frozen", "--batch_size=12", "--resume=1")
    (warning,) = [line for line in (output / "training.log").read_text().splitlines() if "weights only" in line]
    assert warning.endswith(
        f"{output} contains weights only: these start anew: the step, the best accuracies, the backbone's momentum,"
        " the class centres' momentum"
    )
    now = arrays(output, 3)
    names = [name for name in given if name.startswith(f"{NETWORK} ")]
    assert len(names) == 8 and all(np.array_equal(now[name], given[name]) for name in names)
    assert np.array_equal(now["head weight"], given["head weight"])
    with pytest.raises(AssertionError, match="was trained with batch_size 12, not 8"):  # it is a whole checkpoint now
        train(1, "old", "--max_steps=1", "--resume=1", "--batch_size=8")


def losses_fall(values: dict[int, float], steps_per_epoch: int) -> bool:
    in_order = list(values.values())
    return np.mean(in_order[-steps_per_epoch:]) < 0.99 * np.mean(in_order[:steps_per_epoch])


def assert_same_run(one: Path, other: Path, ranks: int) -> None:
    expected, actual = arrays(one, ranks), arrays(other, ranks)
    assert expected.keys() == actual.keys()
    for name in expected:
        assert np.array_equal(expected[name], actual[name]), name
    timing = ("run", "time", "samples_per_second", "hours_to_end", "data_wait")
    without_times = [
        [{key: value for key, value in record.items() if key not in timing} for record in records(run)] for run in (one, other)
    ]
    assert without_times[0] == without_times[1]


def test_the_order_of_a_gpu_gives_the_bits_and_records_of_a_cpu_s(train, run_ranks, data_set, tmp_path):
    ranks = 2
    options = ["--num_epoch=3", "--sample_rate=0.6", "--cpu_kernels=off", "--val_targets=tiny", "--val_interval=4"]
    options += ["--save_interval=5", "--log_interval=3", *(["--profile=2:4"] if can_record() else [])]
    expected, actual = train(ranks, "cpu", *options), tmp_path / "gpu"
    run_ranks(ranks, HELPERS / "gpu_order_train.py", *arguments(data_set, actual), *options)
    (one, other) = (arrays(output, ranks) for output in (expected, actual))
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []
    measured = ("loss", "lr_head", "accuracy", "xnorm", "highest")
    (one, other) = ([{name: r[name] for name in ("step", *measured) if name in r} for r in records(o)] for o in (expected, actual))
    assert one == other and len(one) == 4 + 3  # log lines after steps 3, 6, 9 and 11; verifications after 4, 8 and 11
    assert all((output / "log" / "profile_2_4.json").exists() == can_record() for output in (expected, actual))


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "ranks, more, stops",
    [
        (1, [], (2, 5)),
        pytest.param(2, [], (2, 5), marks=pytest.mark.exhaustive),
        (2, ["--accumulate=2", "--recompute=1", "--ema=0.9"], (5,)),
    ],
)
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(train, ranks, more, stops):
    options = ["--sample_rate=0.5", "--num_epoch=2", "--save_interval=3", *more]  # 8 steps
    whole = train(ranks, "whole", *options)
    for number, step in enumerate(stops):
        train(ranks, "parts", *options, f"--max_steps={step}", f"--resume={int(number > 0)}")
    assert_same_run(whole, train(ranks, "parts", *options, "--resume=1"), ranks)


def test_a_killed_run_loses_only_the_steps_since_its_checkpoint(train, run_ranks, data_set, tmp_path):
    options = ["--num_epoch=2", "--save_interval=3", "--log_interval=2", "--val_targets=tiny", "--val_interval=2"]
    whole = train(1, "whole", *options)
    output = tmp_path / "killed"
    done = run_ranks(1, HELPERS / "signal_worker.py", 0, "SIGKILL@6", *arguments(data_set, output), *options, check=False)
    assert done.returncode == -signal.SIGKILL
    assert 3 <= int(os.readlink(output / "latest").removeprefix("step_")) < 6  # 3 is due, 4 ends an epoch
    train(1, "killed", *options, "--resume=1")
    assert_same_run(whole, output, 1)


# A new best accuracy makes a checkpoint of its own.
@pytest.mark.parametrize("interval, is_best", [(2, True), pytest.param(1, False, marks=pytest.mark.exhaustive)])
def test_a_verification_that_a_signal_put_off_is_made_up_for_once(train, run_ranks, data_set, tmp_path, interval, is_best):
    options = ["--num_epoch=2", "--log_interval=2", "--val_targets=tiny", f"--val_interval={interval}"]
    whole = train(1, "whole", *options)
    highest = {0: 0.0} | {record["step"]: record["highest"] for record in records(whole) if "highest" in record}
    step = next(step for step in highest if step > 1 and (highest[step] > highest[step - interval]) == is_best)
    worker, output = (HELPERS / "signal_worker.py", 0), tmp_path / "stopped"
    run_ranks(1, *worker, f"SIGTERM@{step - 1}", *arguments(data_set, output), *options)
    progress = Checkpoint(output).manifest["progress"]
    assert (progress["step"], progress["unverified"]) == (step, True)
    assert step not in {record["step"] for record in records(output) if "highest" in record}
    killed = run_ranks(1, *worker, "SIGKILL@1", *arguments(data_set, output), *options, "--resume=1", check=False)
    assert killed.returncode == -signal.SIGKILL
    progress = Checkpoint(output).manifest["progress"]
    assert (progress["step"], progress["unverified"]) == (step, not is_best)
    train(1, "stopped", *options, "--resume=1")
    assert_same_run(whole, output, 1)


def test_log_lines_are_those_that_scripts_parse_and_visualdl_has_the_same_figures(train):
    output = train(1, "run", "--max_steps=2", "--val_targets=tiny", "--val_interval=1")
    lines = (output / "training.log").read_text().splitlines()
    written = [line for line in lines if "Speed" in line or "[tiny]" in line]
    expected = [TRAINING_LINE, *VERIFICATION_LINES] * 2
    assert len(written) == len(expected)
    assert all(pattern.fullmatch(line) for pattern, line in zip(expected, written)), written

    from visualdl import LogReader

    (file,) = (output / "log").glob("vdlrecords*")
    reader = LogReader(file_path=str(file))
    for kind, name in [
        ("training", "loss"),
        ("training", "lr_backbone"),
        ("training", "lr_head"),
        ("training", "samples_per_second"),
        ("training", "hours_to_end"),
        ("verification/tiny", "accuracy"),
        ("verification/tiny", "xnorm"),
    ]:
        shown = {point.id: point.value for point in reader.get_data("scalar", f"{kind}/{name}")}
        recorded = {record["step"]: record[name] for record in records(output) if record["kind"] == kind}
        assert shown == pytest.approx(recorded) and len(shown) == 2


def test_the_progress_bar_on_a_terminal_leaves_the_log_lines_whole(data_set, start_process, tmp_path):
    terminal, program_side = pty.openpty()
    fcntl.ioctl(program_side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    command = [sys.executable, HELPERS / "tiny_train.py", *arguments(data_set, tmp_path / "run"), "--max_steps=3"]
    process = start_process(command, stdout=program_side, stderr=program_side)
    os.close(program_side)
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # how a terminal says that the program has ended
        pass
    assert process.wait(60) == 0
    parts = re.split(r"[\r\n]+", shown.decode())
    assert sum(TRAINING_LINE.fullmatch(part.strip()) is not None for part in parts) == 3
    assert any("3/3 [" in part and "steps" in part for part in parts)


def test_the_saved_head_is_the_trained_one(train):
    early, late = train(1, "early", "--max_steps=1"), train(1, "late", "--max_steps=3")
    assert (arrays(early, 1)["head weight"] != arrays(late, 1)["head weight"]).any(axis=1).all()


def test_training_starts_from_given_weights_and_a_new_head(train):
    first = train(1, "first", "--max_steps=2", "--seed=1")
    given = arrays(first, 1)
    started = arrays(
        train(2, "started", "--max_steps=1", "--lr=0", "--batch_norm=frozen", f"--init_from={first / f'{NETWORK}.pdparams'}"), 2
    )
    backbone = [name for name in given if name.startswith(f"{NETWORK} ")]
    assert len(backbone) == 8 and all(np.array_equal(started[name], given[name]) for name in backbone)
    assert (started["head weight"] != given["head weight"]).any(axis=1).all()


def test_unreadable_images_of_all_ranks_stop_the_run_in_the_step_that_meets_them(run_ranks, repository, make_data_set, tmp_path):
    directory = make_data_set(8, 4)
    for image in (directory / "images").iterdir():
        image.write_bytes(b"damaged")
    options = ["--scan_images=0", "--max_bad_images=7", "--log_interval=100"]
    output = tmp_path / "out"
    done = run_ranks(2, repository / "train.py", *arguments(directory, output), *options, check=False)
    assert done.returncode == 2 and "8 unreadable images, more than --max_bad_images 7" in done.stderr, done
    assert not (output / "latest").exists()  # not after the epoch's only step


def test_training_learns(train):
    output = train(1, "run", "--num_epoch=8", "--margin2=0", "--scale=16", "--warmup_epoch=1", "--lr=3")
    values = list(losses(output).values())
    assert np.mean(values[-4:]) < 0.7 * np.mean(values[:4])


@pytest.mark.parametrize("options", [[], pytest.param(["--ema=0.5"], marks=pytest.mark.exhaustive)])
def test_valid_prints_what_training_measured_last_on_any_number_of_ranks(train, run_ranks, repository, data_set, options):
    output = train(2, "run", "--max_steps=2", "--val_targets=tiny", *options)
    trained = [line.partition("-[")[2] for line in (output / "training.log").read_text().splitlines() if "[tiny]" in line]
    for ranks in (1, 2):
        done = run_ranks(
            ranks,
            repository / "valid.py",
            "--checkpoint",
            output,
            "--data_dir",
            data_set,
            f"--network={NETWORK}",
            "--engine=paddle",
            "--val_targets=tiny",
            "--val_batch_size=5",
            "--device=cpu",
        )
        printed = [line.partition("-[")[2] for line in done.stdout.splitlines() if "[tiny]" in line]
        xnorms = [float(lines[0].rpartition(" ")[2]) for lines in (trained, printed)]
        assert xnorms[0] == pytest.approx(xnorms[1], rel=1e-5)
        assert printed[1:] == trained[1:] and len(printed) == 3
