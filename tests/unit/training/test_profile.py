"""Profile: the steps of a window are recorded as a Chrome trace, and no others."""

import json
import re
from pathlib import Path

import paddle
import pytest
from kernel_calls import CANNOT_RECORD, kernel_calls
from paddle import profiler

from arcface.errors import UserError
from arcface.io.log import start_log
from arcface.training import profile
from arcface.training.profile import Profile

pytestmark = pytest.mark.skipif(not profile.can_record(), reason=CANNOT_RECORD)


@pytest.fixture
def take_steps(tmp_path):
    """Returns a function that takes steps, the n-th with n operators `sin`, and returns the log lines and the file of the trace."""

    def take(window: str | None, last: int, done: int = 0, ends_after: int | None = None) -> tuple[list[str], Path]:
        start_log(tmp_path / "training.log")
        x = paddle.ones([2])
        with Profile(window, tmp_path, done, last) as recorded:
            for step in range(done + 1, (ends_after or last) + 1):
                recorded.step(step)
                for _ in range(step):
                    x.sin()
        return (tmp_path / "training.log").read_text().splitlines(), tmp_path / f"profile_{(window or '').replace(':', '_')}.json"

    return take


def operators(file: Path, name: str) -> int:
    """How often an operator was called, by a trace; its kernel and other parts of it are events, too."""
    return sum(bool(re.match(rf"{name} pybind", event.get("name", ""))) for event in json.loads(file.read_text())["traceEvents"])


@pytest.mark.parametrize(
    "window, done, ends_after, recorded",
    [
        ("3:5", 0, None, "steps 3 to 4"),
        ("1:3", 0, None, "steps 1 to 2"),
        ("3:20", 0, 4, "steps 3 to 4"),  # a run that a signal stops, or the last step
        ("2:5", 3, None, "step 4"),  # a run that resumes within it
    ],
)
def test_the_steps_of_the_window_are_in_the_trace(take_steps, window, done, ends_after, recorded):
    lines, file = take_steps(window, 6, done, ends_after)
    steps = [int(number) for number in re.findall(r"\d+", recorded)]
    assert operators(file, "sin") == sum(range(steps[0], steps[-1] + 1))
    assert [line.partition("-trace")[2] for line in lines] == [
        f" of {recorded}: {file}; open it in https://ui.perfetto.dev or chrome://tracing"
    ]


@pytest.mark.parametrize("window, done", [(None, 0), ("7:9", 0), ("2:4", 3)])
def test_no_trace_without_a_step_of_the_window(take_steps, tmp_path, monkeypatch, window, done):
    monkeypatch.setattr(profiler, "Profiler", None)  # cannot be called
    lines, _ = take_steps(window, 8, done, ends_after=6)
    warned = "2:4: nothing is recorded, as the run continues after step 3"
    assert [line.partition("--profile ")[2] for line in lines] == ([warned] if done else [])
    assert not list(tmp_path.glob("profile*"))


def test_a_window_after_the_last_step_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^--profile 9:12: the run ends with step 8; choose earlier steps$"):
        Profile("9:12", tmp_path, 0, 8)
    Profile("8:12", tmp_path, 0, 8)


def test_a_paddle_for_gpus_is_refused_without_a_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(profile, "gpu_count", lambda: 0)
    Profile(None, tmp_path, 0, 8)
    with pytest.raises(UserError, match="^--profile 1:3: this Paddle is built for GPUs, .*; leave the option out"):
        Profile("1:3", tmp_path, 0, 8)


def test_other_ranks_record_nothing(take_steps, monkeypatch, tmp_path):
    monkeypatch.setattr(profile, "rank", lambda: 1)
    take_steps("1:3", 4)
    assert not list(tmp_path.glob("profile*"))


@pytest.mark.parametrize("written", [None, '{"traceEvents": ['])  # Paddle raises nothing in either case
def test_a_trace_that_cannot_be_written_is_a_warning_and_the_run_goes_on(take_steps, monkeypatch, written):
    monkeypatch.setattr(profiler.Profiler, "export", lambda _, path: written and Path(path).write_text(written))
    lines, _ = take_steps("1:3", 4)
    assert len(lines) == 1 and "profile_1_3.json: the trace cannot be written (" in lines[0]


def test_a_step_that_fails_shows_its_own_error(tmp_path):
    with pytest.raises(UserError, match="its own"), Profile("1:3", tmp_path, 0, 5) as recorded:
        recorded.step(1)
        raise UserError("its own")
    assert not list(tmp_path.glob("profile*"))
    paddle.ones([2]).sin()
    with kernel_calls() as calls:
        paddle.ones([2])
    assert calls == ["full"]  # the recording has ended, too


def test_on_a_gpu_its_kernels_are_asked_for(tmp_path, monkeypatch):
    asked = []

    class Recorder:
        def __init__(self, targets, on_trace_ready):
            asked.extend(targets)

        def start(self):
            pass

    monkeypatch.setattr(profiler, "Profiler", Recorder)
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:3")
    Profile("1:3", tmp_path, 0, 5).step(1)
    assert asked == [profiler.ProfilerTarget.CPU, profiler.ProfilerTarget.GPU]
