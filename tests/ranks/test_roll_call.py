"""A rank that ends, is stopped or hangs is named by all others, which end within the time that was set."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"

TIMEOUT = 6  # seconds


@pytest.fixture
def start(repository):
    """Returns a function that starts ranks by themselves, without a launcher that would end the others."""
    started = []

    def run(ranks: int, *arguments) -> list[subprocess.Popen]:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(ranks)]
        endpoints = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        for listener in listeners:
            listener.close()
        for rank in range(ranks):
            environment = {
                **os.environ, "PYTHONPATH": str(repository), "PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": str(ranks),
                "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints), "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            }  # fmt: skip
            command = [sys.executable, HELPERS / "lost_rank_worker.py", *map(str, arguments)]
            started.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
        return started

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "lost, what, reason",
    [
        (1, "is killed", "rank 1 has ended; its log says why"),
        (0, "is killed", "rank 0 has ended; its log says why"),
        (1, "raises", "rank 1 ended before the others; the log says why"),
        (0, "raises", "rank 0 ended before the others; the log says why"),
        (1, "finds a mistake", "rank 1 ended before the others; the log says why"),
        (0, "finds a mistake", "rank 0 ended before the others; the log says why"),
        (2, "ends", "rank 2 ended before the others; the log says why"),
        (1, "is stopped", f"rank 1 did not answer for {TIMEOUT} seconds (--rank_timeout): stopped, or the machine is gone"),
        (0, "is stopped", f"rank 0 has not answered for {TIMEOUT} seconds (--rank_timeout)"),
        (1, "hangs", f"rank 1 got no further for {TIMEOUT} seconds (--rank_timeout) in a long dream"),
        (0, "hangs", f"rank 0 got no further for {TIMEOUT} seconds (--rank_timeout) in a long dream"),
    ],
)
def test_a_lost_rank_is_named_by_all_others_which_end(start, lost, what, reason):
    processes = start(3, lost, what, TIMEOUT)
    others = [process for rank, process in enumerate(processes) if rank != lost]
    for process in others:
        printed, complaint = process.communicate(timeout=90)
        rank = processes.index(process)
        assert printed == "together\n" and process.returncode == 1, complaint
        (error,) = [line for line in complaint.splitlines() if line.startswith("error: ")]
        assert error == f"error: rank {rank} ends: {reason}"


@pytest.mark.parametrize("lost, reason", [(1, "rank 1 did not answer for 4 seconds"), (0, "rank 0 has not answered for")])
def test_a_rank_that_is_stopped_within_paddles_own_collectives_is_named(start, lost, reason):
    processes = start(2, lost, "is in a collective", 1000)
    _, complaint = processes[1 - lost].communicate(timeout=120)  # gloo's own limit is 30 seconds
    assert processes[1 - lost].returncode == 1 and f"error: rank {1 - lost} ends: {reason}" in complaint


def test_a_slow_rank_that_shows_life_is_waited_for(start):
    for process in start(2, 1, "is slow", 24):  # in all longer than Paddle's gloo would wait, and than the limit
        printed, complaint = process.communicate(timeout=120)
        assert printed == "together\ndone\n" and process.returncode == 0, complaint


def test_a_run_that_is_stopped_as_a_whole_goes_on(start):
    processes = start(2, 1, "is slow", 8)
    for process in processes:
        assert process.stdout.readline() == "together\n"
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(12)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    for process in processes:
        printed, complaint = process.communicate(timeout=60)
        assert printed == "done\n" and process.returncode == 0, complaint


def test_a_stranger_is_not_let_in():
    from arcface.runtime.roll_call import Roll

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    roll = Roll([f"127.0.0.1:{port}", "127.0.0.1:1"], 60)
    guesses = (b'{"rank": 1, "run": "guess"}\n', b'{"rank": 1, "run": 3}\n', b'{"rank": [], "run": "guess"}\n')
    for hello in (b"\n", b"{}\n", b"[]\n", *guesses, b"\xff\n", b"x" * 9999):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(hello)
            stranger.settimeout(20)
            try:
                assert stranger.recv(100) == b""
            except ConnectionResetError:
                pass
    assert roll._entries == {}
    roll.close()
