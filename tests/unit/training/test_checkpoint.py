"""A crash at any instant leaves a complete checkpoint; damage and foreign files are refused, not loaded."""

import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from arcface.errors import UserError
from arcface.head.shards import Shard, shard_of
from arcface.training.checkpoint import Arrays, Checkpoint, save
from arcface.training.legacy import RankFiles, has_only_rank_files
from arcface.weights.run_directory import find_backbone, read_backbone

HELPERS = Path(__file__).parents[2] / "helpers"

CLASSES = 10
NETWORK = "MobileFaceNet_128"


def state(value: float) -> Arrays:
    rows = np.arange(CLASSES * 4, dtype=np.float32).reshape(CLASSES, 4) + np.float32(value)
    return Arrays({"w": np.full([2], value, np.float32)}, {"momentum": {"w": np.full([2], -value, np.float32)}}, rows, -rows)


def write(output: Path, value: float, run: str = "a", **options) -> None:
    progress = {"step": int(value), "run": run}
    save(output, NETWORK, state(value), Shard(0, CLASSES), int(value), {"progress": progress}, **options)


def holds(output: Path) -> int:
    """Check that a directory's checkpoint is complete and consistent, and return its step."""
    opened = Checkpoint(output)
    loaded = opened.load(NETWORK, Shard(0, CLASSES))
    step = opened.manifest["progress"]["step"]
    np.testing.assert_equal(vars(loaded), vars(state(step)))
    return step


class Crash(BaseException):
    """Stands for the process's death: nothing catches it."""


def write_first(output: Path) -> None:
    write(output, 1)


def write_copy_that_followed_links(output: Path) -> None:
    """What `scp -r` and `cp -rL` make of an output directory: folders and files where there were links."""
    original = output.with_suffix(".original")
    original.mkdir()
    write(original, 1)
    shutil.copytree(original, output, dirs_exist_ok=True)
    assert not (output / "latest").is_symlink()


@pytest.mark.parametrize("best", [False, True], ids=["", "best"])
@pytest.mark.parametrize(
    "before", [None, write_first, write_copy_that_followed_links], ids=["first checkpoint", "a later one", "a copied one"]
)
def test_a_crash_at_any_file_operation_leaves_the_old_or_the_new_checkpoint_complete(tmp_path, monkeypatch, before, best):
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
            before(output)
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, dying(name))
            countdown = crash_after
            try:
                write(output, 2, best=best)
                survived = True
            except Crash:
                survived = False
            countdown = None
        if before or survived or (output / "latest").exists():
            seen.add(holds(output))
        if best and survived:
            assert holds(output / "best") == 2
        write(output, 3)  # and the next one is written as if nothing had happened
        assert holds(output) == 3
        kept = ["step_00000002", "step_00000003"] if (output / "best").exists() else ["step_00000003"]
        assert sorted(path.name for path in output.glob("*step_*")) == kept
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
    momentum = (tmp_path / "rank:0_softmax_weight_mom.pkl").read_bytes()
    assert momentum == pickle.dumps(state(2).centres_velocity, protocol=4)
    assert np.array_equal(paddle.load(str(tmp_path / f"{NETWORK}.pdparams"))["w"].numpy(), state(2).backbone["w"])


def complete(output: Path) -> list[int]:
    return sorted(holds(path) for path in output.glob("step_*"))


def test_the_best_and_the_kept_ones_stay_beside_the_last(tmp_path):
    for value, options in enumerate([{}, {"best": True}, {"keep": True}, {}, {"best": True}, {}], 1):
        write(tmp_path, value, **options)
        assert holds(tmp_path) == value
    assert complete(tmp_path) == [3, 5, 6] and holds(tmp_path / "best") == 5
    assert read_backbone(tmp_path / "best", NETWORK)["w"][0] == 5
    write(tmp_path, 1, run="b")  # a new run: the kept ones stay, the old run's best does not count
    assert complete(tmp_path) == [1, 3] and not (tmp_path / "best").is_symlink()
    write(tmp_path, 2, run="b", best=True)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)  # follows the links
    write(copy, 3, run="b")
    assert holds(copy / "best") == 2 and not (copy / "best").is_symlink()
    write(copy, 4, run="b", best=True)
    assert holds(copy / "best") == 4 and complete(copy) == [3, 4]


def without_colons_and_links(monkeypatch) -> None:
    """Has the operating system answer as Linux does on a disk with FAT."""
    real_open, real_io_open = os.open, io.open

    def refuse_colon(path):
        if isinstance(path, (str, os.PathLike)) and ":" in os.path.basename(path):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))

    def open_(path, *args, **kwargs):
        refuse_colon(path)
        return real_open(path, *args, **kwargs)

    def io_open(path, *args, **kwargs):
        refuse_colon(path)
        return real_io_open(path, *args, **kwargs)

    def symlink(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(io, "open", io_open)
    monkeypatch.setattr(os, "symlink", symlink)


def test_a_file_system_without_colons_and_links_holds_checkpoints_too(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        without_colons_and_links(patch)
        write(tmp_path, 1, best=True)
        write(tmp_path, 2)
        write(tmp_path, 3)
        assert holds(tmp_path) == 3 and complete(tmp_path) == [1, 3]
        assert (tmp_path / "latest").read_text() == "step_00000003" and (tmp_path / "best").read_text() == "step_00000001"
        assert pickle.loads((tmp_path / "rank_0_softmax_weight.pkl").read_bytes())[0, 0] == 3
        assert not any(path.is_symlink() or ":" in path.name for path in tmp_path.rglob("*"))
    assert holds(tmp_path) == 3
    write(tmp_path, 4)  # after a move to another file system
    assert holds(tmp_path) == 4 and (tmp_path / "latest").is_symlink() and complete(tmp_path) == [1, 4]


@pytest.mark.parametrize("links", [True, False])
def test_what_the_current_checkpoint_does_not_contain_is_not_beside_it(tmp_path, monkeypatch, links):
    if not links:
        without_colons_and_links(monkeypatch)
    average = {"ema": {"w": np.ones(2, np.float32)}}
    for step, averages in ((1, average), (2, {})):
        arrays, manifest = dataclasses.replace(state(step), averages=averages), {"progress": {"step": step, "run": "a"}}
        save(tmp_path, NETWORK, arrays, Shard(0, CLASSES), step, manifest, best=step == 1)
        assert os.path.lexists(tmp_path / f"{NETWORK}_ema.pdparams") == (step == 1)
    assert (tmp_path / "step_00000001" / f"{NETWORK}_ema.pdparams").exists()


def test_a_copy_s_average_of_an_earlier_checkpoint_is_not_read(tmp_path):
    original, copy, average = tmp_path / "original", tmp_path / "copy", f"{NETWORK}_ema.pdparams"
    original.mkdir()
    averaged = dataclasses.replace(state(1), averages={"ema": state(5).backbone})
    save(original, NETWORK, averaged, Shard(0, CLASSES), 1, {"progress": {"step": 1, "run": "a"}})
    shutil.copytree(original, copy)  # follows the links
    assert find_backbone(copy, NETWORK) == copy / average
    write(copy, 2)
    assert find_backbone(copy, NETWORK) == copy / f"{NETWORK}.pdparams"


def test_renamed_files_of_a_copy_without_colons_are_found(tmp_path):
    write(tmp_path, 1)
    for path in (tmp_path / "latest").glob("rank:*"):
        path.rename(path.with_name(path.name.replace(":", "_")))
    assert holds(tmp_path) == 1


@pytest.mark.parametrize("colon", [":", "_"])
@pytest.mark.parametrize("momentum", [True, False])
def test_rank_files_alone_are_read(tmp_path, colon, momentum):
    """Three ranks' files of another toolkit, read by any number of ranks."""
    paddle.save({"w": paddle.to_tensor(state(1).backbone["w"])}, str(tmp_path / f"{NETWORK}.pdparams"))
    for owner, (start, stop) in enumerate([(0, 4), (4, 7), (7, 10)]):
        (tmp_path / f"rank{colon}{owner}_softmax_weight.pkl").write_bytes(pickle.dumps(state(1).centres[start:stop]))
        if momentum:
            rows = state(1).centres_velocity[start:stop]
            (tmp_path / f"rank{colon}{owner}_softmax_weight_mom.pkl").write_bytes(pickle.dumps(rows))
    assert has_only_rank_files(tmp_path)
    files = RankFiles(tmp_path)
    identity = {"num_classes": CLASSES, "embedding_size": 4}
    files.check_fingerprint(identity)
    assert ("the class centres' momentum" in files.missing) is not momentum
    for ranks in (1, 2, 3, 4):
        parts = [files.load(NETWORK, shard_of(CLASSES, rank, ranks)) for rank in range(ranks)]
        assert np.array_equal(np.concatenate([part.centres for part in parts]), state(1).centres)
        expected = state(1).centres_velocity if momentum else np.zeros_like(state(1).centres)
        assert np.array_equal(np.concatenate([part.centres_velocity for part in parts]), expected)
        assert np.array_equal(parts[0].backbone["w"], state(1).backbone["w"]) and not parts[0].averages["momentum"]["w"].any()
    with pytest.raises(
        UserError,
        match=r"is of 10 classes, not 11 \(rank.0_softmax_weight.pkl the classes 0 to 3,"
        r" rank.1_softmax_weight.pkl the classes 4 to 6, .* 7 to 9\)",
    ):
        files.check_fingerprint({**identity, "num_classes": 11})
    with pytest.raises(UserError, match="rank.0_softmax_weight.pkl was trained with embedding_size 4, not 8"):
        files.check_fingerprint({**identity, "embedding_size": 8})
    (tmp_path / f"rank{colon}2_softmax_weight.pkl").write_bytes(pickle.dumps(np.zeros(3)))
    with pytest.raises(UserError, match=f"rank{colon}2_softmax_weight.pkl: not an array"):
        RankFiles(tmp_path)
    (tmp_path / f"rank{colon}1_softmax_weight.pkl").unlink()
    with pytest.raises(UserError, match="rank:1_softmax_weight.pkl is missing, of 3 ranks"):
        RankFiles(tmp_path)


def test_what_is_not_its_own_is_left_alone(tmp_path):
    for name in ("step_best", "step_00000001_backup", ".step_notes.incomplete"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_notes.txt").touch()
    (tmp_path / "mine").symlink_to("/mnt/not/mounted")
    before = set(os.listdir(tmp_path))
    write(tmp_path, 1)
    write(tmp_path, 2)
    assert before <= set(os.listdir(tmp_path)) and holds(tmp_path) == 2
    assert not (tmp_path / "step_00000001").exists()


def test_a_rank_that_cannot_write_ends_all_of_them_with_one_message_and_the_old_checkpoint_whole(run_ranks, tmp_path):
    run_ranks(2, HELPERS / "save_worker.py", tmp_path)
    messages = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert "step 2 cannot be written (see the log of rank 1)" in messages[0]
    assert "step 2 cannot be written (No space left on device)" in messages[1]
    opened = Checkpoint(tmp_path)
    assert opened.manifest["progress"]["step"] == 1
    assert np.array_equal(opened.load(NETWORK, Shard(0, CLASSES)).centres, state(1).centres)


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
    assert np.array_equal(np.concatenate([part.centres_velocity for part in parts]), state(1).centres_velocity)


def test_missing_files_are_listed(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "latest" / "rank:0_softmax_weight.pkl").unlink()
    (tmp_path / "latest" / f"{NETWORK}.pdparams").unlink()
    with pytest.raises(
        UserError,
        match=f"missing {NETWORK}.pdparams, rank:0_softmax_weight.pkl|missing rank:0_softmax_weight.pkl, {NETWORK}.pdparams",
    ):
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


def test_another_run_is_refused_by_what_differs_but_not_by_what_an_earlier_version_did_not_write(tmp_path):
    manifest = {"progress": {"step": 1, "run": "a"}, "identity": {"seed": 1}}
    save(tmp_path, NETWORK, state(1), Shard(0, CLASSES), 1, manifest)
    Checkpoint(tmp_path).check_fingerprint({"seed": 1, "shuffle": "global"})
    with pytest.raises(UserError, match="was trained with seed 1, not 2; resume with the same seed"):
        Checkpoint(tmp_path).check_fingerprint({"seed": 2, "shuffle": "global"})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("operation", ["mkdir", "open", "fsync", "rename", "replace"])
def test_an_unwritable_output_is_said_and_leaves_the_old_checkpoint(tmp_path, monkeypatch, operation, number):
    """Disk full, quota, read-only file system, permission denied, broken disk."""
    write(tmp_path, 1, best=True)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, refuse)
        with pytest.raises(UserError, match=f"step 2 cannot be written .{os.strerror(number)}.; the last checkpoint is intact"):
            write(tmp_path, 2)
    assert holds(tmp_path) == holds(tmp_path / "best") == 1
    write(tmp_path, 3)
    assert holds(tmp_path) == 3 and complete(tmp_path) == [1, 3]


def test_a_later_format_is_refused(tmp_path):
    write(tmp_path, 1)
    file = tmp_path / "latest" / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(UserError, match="format 2 is not 1"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "[1]",
        "null",
        "{",
        "[" * 100000,
        {"progress": None},
        {"progress": {"step": -5}},
        {"progress": {"step": "a"}},
        {"sha256": []},
        {"classes_of_rank": []},
        {"classes_of_rank": [[0, 4], [5, 10]]},
        {"classes_of_rank": [[0]]},
        {"identity": 3},
    ],
)
def test_a_damaged_manifest_is_told(tmp_path, damage):
    write(tmp_path, 1)
    file = tmp_path / "latest" / "checkpoint.json"
    file.write_text(damage if isinstance(damage, str) else json.dumps({**json.loads(file.read_text()), **damage}))
    with pytest.raises(UserError, match="checkpoint.json: (damaged|format of another kind)"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("rows", [np.zeros((10, 4)), np.zeros(10, np.float32), np.full((10, 4), np.nan, np.float32)])
def test_a_head_of_another_kind_is_told_whatever_its_digest(tmp_path, rows):
    write(tmp_path, 1)
    file, manifest = tmp_path / "latest" / "rank:0_softmax_weight.pkl", tmp_path / "latest" / "checkpoint.json"
    file.write_bytes(pickle.dumps(rows))
    content = json.loads(manifest.read_text())
    content["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="rank:0_softmax_weight.pkl: not finite float32"):
        Checkpoint(tmp_path).load(NETWORK, Shard(0, CLASSES))


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
