"""What launchers set is understood or complained about, and whatever a collective raises is reported."""

import os
import time

import paddle
import paddle.distributed as dist
import pytest

from arcface.distributed import process_group
from arcface.distributed.process_group import all_gather, all_reduce_max, all_reduce_sum, broadcast, busy, ranks_together
from arcface.errors import UserError

TWO = {
    "PADDLE_TRAINERS_NUM": "2",
    "PADDLE_TRAINER_ID": "1",
    "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:2",
    "PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:1,127.0.0.1:2",
}


@pytest.fixture
def launched(monkeypatch):
    """Returns a function that sets these variables and none else of launchers."""

    def use(**variables: str) -> None:
        of_launchers = ("PADDLE_", "SLURM_", "OMPI_", "PMI_", "WORLD_SIZE")
        for name in [name for name in os.environ if name.startswith(of_launchers)]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.mark.parametrize(
    "variables, complaint",
    [
        ({"PADDLE_TRAINERS_NUM": "2"}, "without PADDLE_TRAINER_ID and PADDLE_CURRENT_ENDPOINT and PADDLE_TRAINER_ENDPOINTS; "),
        (TWO | {"PADDLE_TRAINER_ENDPOINTS": ""}, "without PADDLE_TRAINER_ENDPOINTS; start with"),
        (TWO | {"PADDLE_TRAINERS_NUM": "3"}, "with 2 PADDLE_TRAINER_ENDPOINTS; start with"),
        (TWO | {"PADDLE_TRAINER_ID": "2"}, "with PADDLE_TRAINER_ID=2, which is from 0 to 1; start with"),
        (TWO | {"PADDLE_TRAINER_ID": "0"}, "with PADDLE_CURRENT_ENDPOINT=127.0.0.1:2, not the endpoint of rank 0; start with"),
        (
            TWO | {"PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:66000,127.0.0.1:2"},
            "with '127.0.0.1:66000' among PADDLE_TRAINER_ENDPOINTS",
        ),
        (TWO | {"PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:1,here"}, "with 'here' among PADDLE_TRAINER_ENDPOINTS, which are host:port"),
    ],
)
def test_variables_that_do_not_fit_together_are_one_line(launched, variables, complaint):
    launched(**variables)
    with pytest.raises(UserError) as raised, ranks_together(5):
        pass
    assert str(raised.value).startswith(f"PADDLE_TRAINERS_NUM={variables['PADDLE_TRAINERS_NUM']} is set {complaint}")
    assert "python -m paddle.distributed.launch" in str(raised.value)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_another_launcher_s_variables_are_told_of(launched, capsys, name):
    launched(**{name: "2"})
    with ranks_together(5):
        pass
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {name}=2 is set but not used: this process works alone.") and warning.count("\n") == 1
    assert "python -m paddle.distributed.launch --nproc_per_node N " in warning


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "SLURM_NTASKS": "1"}, {"WORLD_SIZE": "two"}])
def test_one_process_that_is_meant_to_be_alone_is_told_nothing(launched, capsys, variables):
    launched(**variables)
    with ranks_together(5):
        pass
    assert capsys.readouterr().err == ""


failures: list[str] = []


class FakeHeartbeat:
    """Beats for nobody: what it is told is kept in `beats`, and in `failures` for all of them."""

    def __init__(self, rank, endpoints, timeout):
        self.beats = []

    def begin_collective(self, wait):
        pass

    def leave(self):
        pass

    def beat(self, doing):
        self.beats.append(doing)

    def report_failure(self, error):
        failures.append(error)


@pytest.mark.parametrize("kind", [RuntimeError, OSError, SystemError, MemoryError])
@pytest.mark.parametrize(
    "collective, of_paddle",
    [
        (all_reduce_sum, (dist, "all_reduce")),
        (all_reduce_max, (dist, "all_reduce")),
        (all_gather, (dist.stream, "all_gather")),
        (broadcast, (dist, "broadcast")),
    ],
)
def test_whatever_a_collective_raises_is_reported_by_its_name(launched, monkeypatch, kind, collective, of_paddle):
    def fail(*_, **__):
        raise kind("\n-----\nC++ Traceback\n-----\nExternalError: the other end is gone\n  [Hint: none]\n")

    launched(**TWO)
    failures.clear()
    monkeypatch.setattr(process_group, "Heartbeat", FakeHeartbeat)
    monkeypatch.setattr(process_group, "start_ranks", lambda: None)
    monkeypatch.setattr(process_group, "HEAD_START", 0)
    monkeypatch.setattr(*of_paddle, fail)
    with pytest.raises(kind), ranks_together(5):
        collective(paddle.ones([2]))
    assert failures == [f"{kind.__name__}: ExternalError: the other end is gone"]


def test_long_work_sends_heartbeats(monkeypatch):
    fake = FakeHeartbeat(0, [], 5)
    monkeypatch.setattr(process_group, "_heartbeat", fake)
    monkeypatch.setattr(process_group, "INTERVAL", 0.01)
    with busy("reading"):
        ends = time.monotonic() + 20
        while len(fake.beats) < 3 and time.monotonic() < ends:
            time.sleep(0.01)
    assert len(fake.beats) >= 3 and set(fake.beats) == {"reading"}


@pytest.mark.parametrize("device, stream", [("cpu", False), ("gpu:0", True)])
def test_a_gather_fills_one_tensor_on_a_gpu_on_the_computing_stream(launched, monkeypatch, device, stream):
    launched(**TWO)
    asked = []

    def gather(out, x, use_calc_stream):
        asked.append((out.shape, x.shape, out.dtype, use_calc_stream))
        out[:3], out[3:] = x, x + 1

    monkeypatch.setattr(dist.stream, "all_gather", gather)
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    gathered = all_gather(paddle.zeros([3, 2], "int64"))
    assert asked == [([6, 2], [3, 2], paddle.int64, stream)]
    assert gathered[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
