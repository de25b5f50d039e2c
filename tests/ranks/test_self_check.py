"""A round trip names collectives with wrong values and ranks that fail, in bounded time."""

import socket
import subprocess
import threading
import time

import pytest

from arcface.distributed import self_check
from arcface.distributed.self_check import round_trip, wrong_collectives
from arcface.errors import UserError


@pytest.fixture(autouse=True)
def without_launcher(monkeypatch):
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)


def test_ranks_that_are_started_for_it_compute_right_values():
    found = round_trip("cpu", 2, 120)
    assert (found.ranks, found.backend, found.device, found.wrong) == (2, "gloo", "cpu", [])
    assert found.small > 0 and found.large > 0


@pytest.mark.parametrize(
    "name, what", [("all_reduce_sum", "all_reduce sum"), ("all_gather", "all_gather"), ("broadcast", "broadcast")]
)
def test_a_collective_with_wrong_values_is_named(monkeypatch, name, what):
    assert wrong_collectives() == []
    real = getattr(self_check, name)
    monkeypatch.setattr(self_check, name, lambda x: real(x) + 1)
    assert wrong_collectives() == [what]


def test_the_wait_for_a_rank_that_never_comes_is_bounded(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoints = [f"127.0.0.1:{free.getsockname()[1]}", "127.0.0.1:1"]
    for name, value in {
        "PADDLE_TRAINER_ID": "0",
        "PADDLE_TRAINERS_NUM": "2",
        "PADDLE_LOCAL_SIZE": "2",
        "PADDLE_LOCAL_RANK": "0",
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_CURRENT_ENDPOINT": endpoints[0],
        "PADDLE_RANK_IN_NODE": "0",
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
    }.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with pytest.raises(UserError, match="no answer within 15 s"):
        round_trip("cpu", None, 15)
    assert time.monotonic() - started < 60


def test_ranks_that_took_too_long_are_ended(monkeypatch, tmp_path):
    # Rank 1 ends at once, and rank 0 waits for it.
    (tmp_path / "sitecustomize.py").write_text("import os\nif os.environ.get('PADDLE_TRAINER_ID') == '1': os._exit(0)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def running() -> int:
        return subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout.count("arcface_ranks_")

    before, most = running(), []
    watcher = threading.Thread(target=lambda: [most.append(running()) or time.sleep(0.5) for _ in range(20)])
    watcher.start()
    with pytest.raises(UserError, match="no answer within 15 s"):
        round_trip("cpu", 2, 15)
    watcher.join()
    assert max(most) >= before + 2  # the launcher and rank 0
    ends = time.monotonic() + 20
    while running() > before:
        assert time.monotonic() < ends, "ranks are still there"
        time.sleep(0.1)


def test_the_error_of_a_rank_that_fails_is_in_the_message(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('PADDLE_TRAINER_ID') == '1': print('OSError: cable cut\\nbye', flush=True); os._exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="the ranks failed: OSError: cable cut$"):
        round_trip("cpu", 2, 120)
