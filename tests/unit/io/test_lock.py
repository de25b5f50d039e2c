"""A directory that a run writes to is locked for it; to the kernel, two opens in one process are like two processes."""

import os

import pytest

from arcface.errors import UserError
from arcface.io.lock import LOCK_FILE, check_free, locked, owner
from arcface.training.output import opened_output


def left(directory) -> dict:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_a_locked_directory_is_refused_with_its_owner_and_is_free_afterwards(tmp_path):
    with locked(tmp_path, "--logdir"):
        assert owner(tmp_path).startswith(f"process {os.getpid()} on ")
        complaint = rf"^--logdir {tmp_path}: process {os.getpid()} on .* is writing here; wait, end it or choose another --logdir$"
        with pytest.raises(UserError, match=complaint):
            check_free(tmp_path, "--logdir")
        with pytest.raises(UserError, match=complaint), locked(tmp_path, "--logdir"):
            pass
    assert owner(tmp_path) is None
    check_free(tmp_path, "--logdir")


@pytest.mark.parametrize("held", ["output", "logdir"])
def test_a_second_run_in_the_output_or_logdir_of_a_live_one_changes_nothing(tmp_path, held):
    first, second = ((tmp_path / name / "output", tmp_path / name / "logdir") for name in ("first", "second"))
    shared = tmp_path / "first" / held
    with opened_output(*first):
        (first[1] / "metrics.jsonl").write_text('{"run": "1"}\n')
        before = left(tmp_path)
        output, logdir = (shared, second[1]) if held == "output" else (second[0], shared)
        with pytest.raises(UserError, match=f"^--{held} {shared}: process"), opened_output(output, logdir):
            pass
        assert left(tmp_path) == before
    with opened_output(output, logdir):
        assert (shared / LOCK_FILE).exists()


def test_output_and_logdir_may_be_one_directory(tmp_path):
    with opened_output(tmp_path / "a", tmp_path / "a"):
        assert owner(tmp_path / "a")
        with pytest.raises(UserError, match="^--logdir .*: process"), opened_output(tmp_path / "b", tmp_path / "a"):
            pass
        assert not (tmp_path / "b").exists()
