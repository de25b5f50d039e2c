"""What ends a run that has begun, and how the scripts end as processes; test_bad_input.py has the mistakes before that."""

import subprocess
import sys

import pytest

import train


def test_images_that_turn_bad_during_training_are_reported_and_past_the_limit_stop_the_run(
    refused, monkeypatch, make_data_set, tmp_path, capsys
):
    directory = make_data_set(8, 4)
    for index, damaged in ((1, lambda jpeg: b"damaged"), (2, lambda jpeg: jpeg[:-500]), (5, lambda jpeg: jpeg[:-500] + bytes(500))):
        image = directory / "images" / f"{index:08d}.jpg"
        image.write_bytes(damaged(image.read_bytes()))
    common = [
        "train.py",
        f"--data_dir={directory}",
        f"--logdir={tmp_path / 'log'}",
        "--batch_size=4",
        "--num_workers=0",
        "--val_targets=",
        "--device=cpu",
        "--scan_images=0",
        "--num_epoch=3",
        "--log_interval=2",
    ]
    monkeypatch.setattr(sys, "argv", [*common, f"--output={tmp_path / 'a'}", "--max_bad_images=2"])
    assert "3 unreadable images, more than --max_bad_images" in refused(train.main)
    monkeypatch.setattr(sys, "argv", [*common, f"--output={tmp_path / 'b'}", "--max_bad_images=3"])
    train.main()
    log = (tmp_path / "b" / "training.log").read_text()
    complaints = {1: "not an image", 2: "truncated image", 5: "truncated image"}
    for index in range(8):
        assert (f"line {index + 1}: images/{index:08d}.jpg: {complaints.get(index, '')}" in log) == (index in complaints)
    assert "Global Step: 6" in log


def test_records_that_cannot_be_written_are_explained(refused, monkeypatch, make_data_set, tmp_path):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train.py",
            f"--data_dir={make_data_set(8, 4)}",
            f"--output={tmp_path / 'out'}",
            "--logdir=/proc/nowhere",
            "--val_targets=",
            "--device=cpu",
        ],
    )
    assert "/proc/nowhere cannot be written" in refused(train.main)


@pytest.mark.parametrize("script", ["train.py", "valid.py"])
def test_the_scripts_themselves_end_with_one_line_and_exit_code_2(repository, script):
    done = subprocess.run(
        [sys.executable, script, "--data_dir", "nowhere", "--checkpoint" if script == "valid.py" else "--output", "nowhere"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: nowhere") and done.stderr.count("\n") == 1, done.stderr
    assert not (repository / "nowhere").exists()
