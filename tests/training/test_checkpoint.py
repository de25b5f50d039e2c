"""A crash at any instant leaves a complete checkpoint; damage and foreign files are refused, not loaded."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.errors import UserError
from arcface.head.shards import Shard, shard_of
from arcface.training.checkpoint import Checkpoint, State, load_backbone, read_backbone, save

CLASSES = 10
NETWORK = "MobileFaceNet_128"


def state(value: float) -> State:
    rows = np.arange(CLASSES * 4, dtype=np.float32).reshape(CLASSES, 4) + np.float32(value)
    return State({"w": np.full([2], value, np.float32)}, {"w": np.full([2], -value, np.float32)}, rows, -rows)


def write(output: Path, value: float) -> None:
    save(output, NETWORK, state(value), Shard(0, CLASSES), int(value), {"progress": {"step": int(value)}})


def holds(output: Path) -> int:
    """Check that a directory's checkpoint is complete and consistent, and return its step."""
    opened = Checkpoint(output)
    loaded = opened.load(NETWORK, Shard(0, CLASSES))
    step = opened.manifest["progress"]["step"]
    for ours, expected in zip(vars(loaded).values(), vars(state(step)).values()):
        if isinstance(ours, dict):
            assert ours.keys() == expected.keys() and np.array_equal(ours["w"], expected["w"])
        else:
            assert np.array_equal(ours, expected)
    return step


class Crash(BaseException):
    """Stands for the process's death: nothing catches it."""


@pytest.mark.parametrize("before", [None, 1], ids=["first checkpoint", "a later one"])
def test_a_crash_at_any_file_operation_leaves_the_old_or_the_new_checkpoint_complete(tmp_path, monkeypatch, before):
    names = ["open", "fsync", "rename", "replace", "mkdir", "symlink", "unlink", "rmdir"]
    real = {name: getattr(os, name) for name in names}
    countdown = None

    def dying(name):
        def operation(*args, **kwargs):
            nonlocal countdown
            if countdown is not None:
                countdown -= 1
                if countdown < 0:
                    raise Crash
            return real[name](*args, **kwargs)

        return operation

    seen = set()
    for crash_after in range(1000):
        output = tmp_path / str(crash_after)
        output.mkdir()
        if before:
            write(output, before)
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, dying(name))
            countdown = crash_after
            try:
                write(output, 2)
                survived = True
            except Crash:
                survived = False
            countdown = None
        if before or survived or (output / "latest").exists():
            seen.add(holds(output))
        write(output, 3)  # and the next one is written as if nothing had happened
        assert holds(output) == 3
        assert sorted(path.name for path in output.glob("*step_*")) == ["step_00000003"]
        assert not list(output.glob(".*"))
        if survived:
            break
    assert survived and crash_after > 20
    assert seen == ({1, 2} if before else {2})


def test_well_known_names_lead_to_the_current_checkpoint(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    with open(tmp_path / "rank:0_softmax_weight.pkl", "rb") as file:
        rows = pickle.load(file)
    assert rows.dtype == np.float32 and np.array_equal(rows, state(2).centres)
    with open(tmp_path / "rank:0_softmax_weight_mom.pkl", "rb") as file:
        assert np.array_equal(pickle.load(file), state(2).centres_momentum)
    assert np.array_equal(paddle.load(str(tmp_path / f"{NETWORK}.pdparams"))["w"].numpy(), state(2).backbone["w"])


def test_the_same_step_can_be_written_again(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 1)
    assert holds(tmp_path) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_any_number_of_ranks_gets_its_rows(tmp_path, world_size):
    write(tmp_path, 1)
    shards = [shard_of(CLASSES, rank, world_size) for rank in range(world_size)]
    parts = [Checkpoint(tmp_path).load(NETWORK, shard) for shard in shards]
    assert np.array_equal(np.concatenate([part.centres for part in parts]), state(1).centres)
    assert np.array_equal(np.concatenate([part.centres_momentum for part in parts]), state(1).centres_momentum)


def test_missing_files_are_listed(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "latest" / "rank:0_softmax_weight.pkl").unlink()
    (tmp_path / "latest" / f"{NETWORK}.pdparams").unlink()
    with pytest.raises(UserError, match=f"missing {NETWORK}.pdparams, rank:0_softmax_weight.pkl|"
                                        f"missing rank:0_softmax_weight.pkl, {NETWORK}.pdparams"):  # fmt: skip
        Checkpoint(tmp_path)


def test_a_damaged_file_is_refused_by_name(tmp_path):
    write(tmp_path, 1)
    file = tmp_path / "latest" / "rank:0_softmax_weight_mom.pkl"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="rank:0_softmax_weight_mom.pkl: damaged"):
        Checkpoint(tmp_path).load(NETWORK, Shard(0, CLASSES))


def test_nothing_to_resume_from_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        Checkpoint(tmp_path / "none")


def test_an_unwritable_output_is_said_and_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="step 2 cannot be written .No space left on device."):
        write(tmp_path, 2)
    assert holds(tmp_path) == 1


def test_a_later_format_is_refused(tmp_path):
    write(tmp_path, 1)
    file = tmp_path / "latest" / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(UserError, match="format 2 is not 1"):
        Checkpoint(tmp_path)


def test_a_state_dict_published_for_the_2021_toolkit_loads(tmp_path):
    published, ours = create_backbone(NETWORK, 128), create_backbone(NETWORK, 128)
    paddle.save(published.state_dict(), str(tmp_path / f"{NETWORK}.pdparams"))
    load_backbone(ours, read_backbone(tmp_path, NETWORK), "")
    for name, tensor in published.state_dict().items():
        assert np.array_equal(tensor.numpy(), ours.state_dict()[name].numpy())


def test_weights_of_another_size_or_network_are_refused(tmp_path):
    other = {name: tensor.numpy() for name, tensor in create_backbone(NETWORK, 64).state_dict().items()}
    backbone = create_backbone(NETWORK, 128)
    with pytest.raises(UserError, match=r"linear1.conv.weight has shape \[64, 512, 1, 1\], this network's is \[128, 512"):
        load_backbone(backbone, other, "file")
    del other["conv1.conv.weight"]
    with pytest.raises(UserError, match="1 names missing, such as conv1.conv.weight"):
        load_backbone(backbone, other, "file")


def test_a_directory_without_the_network_says_what_was_looked_for_and_found(tmp_path):
    with pytest.raises(UserError, match="looked for MobileFaceNet_128.pdparams .*found no .pdparams file"):
        read_backbone(tmp_path, NETWORK)
    (tmp_path / "iresnet50.pdparams").touch()
    with pytest.raises(UserError, match="found iresnet50.pdparams"):
        read_backbone(tmp_path, NETWORK)
    (tmp_path / f"{NETWORK}.pdparams").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="not a state dict"):
        read_backbone(tmp_path, NETWORK)


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_a_poisoned_checkpoint_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{NETWORK}.pdparams").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(UserError, match="mkdir"):
        read_backbone(tmp_path, NETWORK)
    write(tmp_path, 1)
    file, manifest = tmp_path / "latest" / "rank:0_softmax_weight.pkl", tmp_path / "latest" / "checkpoint.json"
    file.write_bytes(pickle.dumps(Attack()))
    content = json.loads(manifest.read_text())
    content["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="mkdir"):
        Checkpoint(tmp_path).load(NETWORK, Shard(0, CLASSES))
    assert not (tmp_path / "attacked").exists()
