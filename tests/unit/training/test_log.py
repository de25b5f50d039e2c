"""What a run tells of its own time."""

import json
import time
from dataclasses import replace

import numpy as np
import paddle
import pytest

from arcface.config import TrainConfig
from arcface.data.loader import Loader
from arcface.io.log import start_log
from arcface.training.data import TrainingData
from arcface.training.log import TrainLog
from arcface.training.metrics_writer import MetricsWriter
from arcface.training.state import TrainState


@pytest.fixture
def run(tmp_path, monkeypatch, make_data_set):
    """Returns a function that takes steps, given as (seconds for which their data is waited for, seconds that they take
    then), with a line after every second one; it returns the log lines and the records."""

    def follow(*steps: tuple[float, float]) -> tuple[list[str], list[dict]]:
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])

        def batches(*_):
            for wait, _ in steps:
                now[0] += wait
                yield paddle.zeros([8, 3, 112, 112], "uint8"), np.zeros(8, np.int64), np.zeros(8, np.int64)

        config = TrainConfig(num_workers=3, log_interval=2, logdir=str(tmp_path))
        data, state = TrainingData(config, make_data_set(9, 3), 8, 0), TrainState()
        monkeypatch.setattr(Loader, "batches", batches)
        start_log(tmp_path / "training.log")
        with TrainLog(config, state, data, len(steps), None) as log:
            for (_, work), _ in zip(steps, data.batches(0, len(steps)), strict=True):
                now[0] += work
                state.step += 1
                log.step(paddle.zeros([]), 0.1)
        lines = (tmp_path / "training.log").read_text().splitlines()
        return lines, [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    return follow


def test_the_share_of_the_time_that_data_was_waited_for_is_recorded_and_told_when_it_is_large(run):
    lines, records = run((0, 1), (3, 4), (0, 10), (1, 9), (0.5, 0), (1, 0.5))
    assert [record["data_wait"] for record in records] == pytest.approx([3 / 8, 1 / 20, 0.75])
    assert ["waited for data" in line for line in lines] == [False, True, False, False, True]
    assert lines[1].endswith(
        "waited for data 38 % of the time since the line before: raise --num_workers (3) if cores are idle;"
        " if the disk is slow, use --shuffle blocks"
    )


def test_the_start_of_the_workers_is_not_a_wait(run):
    lines, records = run((5, 1), (0, 1))
    assert records[0]["data_wait"] == 0 and len(lines) == 1


OF_ANOTHER_RUN = b'{"run": "another", "step": 1, "kind": "training", "time": 0}\n'


@pytest.mark.parametrize("foreign", [b"3\n", b"\xff\xfe notes\n", OF_ANOTHER_RUN])
def test_another_s_metrics_are_set_aside_whole(run, tmp_path, foreign):
    (tmp_path / "metrics.jsonl").write_bytes(foreign)
    assert [record["step"] for record in run((0, 1), (0, 1))[1]] == [2]
    (folder,) = tmp_path.glob("until_*")
    assert (folder / "metrics.jsonl").read_bytes() == foreign


def test_a_record_that_a_crash_cut_off_is_dropped(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"run": "12')
    assert [record["step"] for record in run((0, 1), (0, 1))[1]] == [2]
    assert not [*tmp_path.glob("until_*")]


@pytest.mark.parametrize("unverified, kept", [(True, ["training"]), (False, ["training", "verification/lfw"])])
def test_a_verification_that_is_done_anew_is_recorded_anew(tmp_path, unverified, kept):
    state = TrainState(step=2)
    writer = MetricsWriter(tmp_path, state)
    for step, kind in ((2, "training"), (2, "verification/lfw"), (3, "training")):
        writer.add(step, kind, loss=1.0)
    MetricsWriter(tmp_path, replace(state, unverified=unverified))
    assert [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == kept
