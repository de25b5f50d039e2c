"""A rank that ends, is stopped or hangs is named by all others, which end within the time that was set."""

import json
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from forks import Fork, start_ranks, wait_until

from arcface.distributed.exit_reason import pid_namespace
from arcface.distributed.watchdog import Watchdog
from arcface.distributed.wire import run_id

WORKER = Path(__file__).parents[1] / "helpers" / "lost_rank_worker.py"

TIMEOUT = 15  # seconds; in the time of all scenarios together there must be none that is merely slow to start
PATIENCE = 200

LOST = [
    (1, "is killed", "rank 1 has ended; see its log"),
    (0, "is killed", "rank 0 has ended; see its log"),
    (1, "raises", "rank 1 ended before the others; see the log"),
    (0, "raises", "rank 0 ended before the others; see the log"),
    (1, "finds a mistake", "rank 1 ended before the others; see the log"),
    (0, "finds a mistake", "rank 0 ended before the others; see the log"),
    (2, "ends", "rank 2 ended before the others; see the log"),
    (1, "is stopped", f"rank 1 sent no heartbeat for {TIMEOUT} s (--rank_timeout): stopped, or the machine is unreachable"),
    (0, "is stopped", f"no message from rank 0 for {TIMEOUT} s (--rank_timeout)"),
    (1, "hangs", f"rank 1 made no progress for {TIMEOUT} s (--rank_timeout) during a long dream"),
    (0, "hangs", f"rank 0 made no progress for {TIMEOUT} s (--rank_timeout) during a long dream"),
]
KILLED = "was killed by signal 9, perhaps out of memory"
IN_A_COLLECTIVE = [(1, "rank 1 sent no heartbeat for 4 s"), (0, "no message from rank 0 for")]


@pytest.fixture(scope="module")
def scenarios(fork_server):
    """The processes of all scenarios, by what happens and to which rank: most of the time they wait, and do it all at once."""
    started: dict[tuple, list[Fork]] = {}
    try:
        for lost, what, _ in LOST:
            started[what, lost] = start_ranks(fork_server, 3, WORKER, lost, what, TIMEOUT)
        for lost, _ in IN_A_COLLECTIVE:
            started["is in a collective", lost] = start_ranks(fork_server, 2, WORKER, lost, "is in a collective", 1000)
        # In all longer than Paddle's gloo would wait, and than the limit.
        started["is slow", 1] = start_ranks(fork_server, 2, WORKER, 1, "is slow", 24)
        started["all are stopped", 1] = start_ranks(fork_server, 2, WORKER, 1, "is slow", 8)
        yield started
    finally:
        for process in (process for processes in started.values() for process in processes):
            process.kill()


def errors(process: Fork) -> list[str]:
    return [line for line in process.stderr.splitlines() if line.startswith("error: ")]


def test_a_run_that_is_stopped_as_a_whole_continues(scenarios):
    processes = scenarios["all are stopped", 1]
    for process in processes:
        wait_until(lambda process=process: process.stdout == "together\n")
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(12)  # longer than its limit
    for process in processes:
        process.send_signal(signal.SIGCONT)
    for process in processes:
        assert process.wait(PATIENCE) == 0 and process.stdout == "together\ndone\n", process.stderr


@pytest.mark.parametrize("lost, what, reason", LOST)
def test_a_lost_rank_is_named_by_all_others_which_end(scenarios, lost, what, reason):
    for rank, process in enumerate(scenarios[what, lost]):
        if rank != lost:
            assert process.wait(PATIENCE) == 1 and process.stdout == "together\n", process.stderr
            # How a killed process ended is known until its parent has taken note of it; the next test has that in hand.
            said = [error.replace(KILLED, "has ended") for error in errors(process)]
            assert said == [f"error: rank {rank} ends: {reason}"]


@pytest.mark.parametrize("here", [True, False])
def test_a_killed_rank_of_this_machine_is_told_with_its_signal(start_process, here):
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoints = [f"127.0.0.1:{free.getsockname()[1]}", "127.0.0.1:1"]
    watchdog = Watchdog(endpoints, 60)
    rank_0 = socket.create_connection(("127.0.0.1", free_port(endpoints)), 20)
    rank_0.sendall(hello(0, endpoints))
    # A process that joins as rank 1, is killed, and of whose end its parent, this test, takes no note.
    say = hello(1, endpoints, pid="%d", namespace=pid_namespace() if here else "another machine").decode()
    script = f"""
import os, signal, socket
connection = socket.create_connection(("127.0.0.1", {free_port(endpoints)}), 20)
connection.sendall({say!r}.replace('"%d"', str(os.getpid())).encode())
connection.recv(100)
os.kill(os.getpid(), signal.SIGKILL)
"""
    start_process([sys.executable, "-c", script])
    lines = rank_0.makefile()
    rank_0.settimeout(60)
    lost = next(message["lost"] for message in map(json.loads, lines) if "lost" in message)
    assert lost == f"rank 1 {KILLED if here else 'has ended'}; see its log"
    rank_0.sendall(b'{"left": true}\n')
    lines.close()
    rank_0.close()
    watchdog.close()


@pytest.mark.parametrize("first", [0, 1])
def test_rank_0_waits_at_its_end_until_the_others_have_ended_and_no_longer(first):
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoints = [f"127.0.0.1:{free.getsockname()[1]}", "127.0.0.1:1"]
    watchdog = Watchdog(endpoints, 60)
    ranks = [socket.create_connection(("127.0.0.1", free_port(endpoints)), 20) for _ in range(2)]
    for rank, connection in enumerate(ranks):
        connection.sendall(hello(rank, endpoints))
        assert connection.recv(100)  # it has joined
    for rank in (first, 1 - first):
        ranks[rank].sendall(b'{"left": true}\n')
        wait_until(partial(getattr, watchdog._ranks[rank], "left"), 20)
        assert not watchdog._others_ended.is_set() or first == 1
        if rank == 1:
            ranks[1].close()  # its process has ended; that of rank 0 is the watchdog's own
            assert watchdog._others_ended.wait(20)
    ranks[0].close()


def hello(rank: int, endpoints: list[str], pid: int | str = 1, namespace: str = "") -> bytes:
    message = {"rank": rank, "run": run_id(endpoints), "pid": pid, "pid_namespace": namespace}
    return json.dumps(message).encode() + b"\n"


def free_port(endpoints: list[str]) -> int:
    return int(endpoints[0].rpartition(":")[2])


@pytest.mark.parametrize("lost, reason", IN_A_COLLECTIVE)
def test_a_rank_that_is_stopped_within_paddles_own_collectives_is_named(scenarios, lost, reason):
    other = scenarios["is in a collective", lost][1 - lost]
    assert other.wait(PATIENCE) == 1  # gloo's own limit is 30 seconds
    assert f"error: rank {1 - lost} ends: {reason}" in other.stderr


def test_a_slow_rank_that_sends_heartbeats_is_waited_for(scenarios):
    for process in scenarios["is slow", 1]:
        assert process.wait(PATIENCE) == 0 and process.stdout == "together\ndone\n", process.stderr


def test_a_stranger_is_not_admitted():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    watchdog = Watchdog([f"127.0.0.1:{port}", "127.0.0.1:1"], 60)
    guesses = (b'{"rank": 1, "run": "guess"}\n', b'{"rank": 1, "run": 3}\n', b'{"rank": [], "run": "guess"}\n')
    for hello in (b"\n", b"{}\n", b"[]\n", *guesses, b"\xff\n", b"x" * 9999):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(hello)
            stranger.settimeout(20)
            try:
                assert stranger.recv(100) == b""
            except ConnectionResetError:
                pass
    assert watchdog._ranks == {}
    watchdog.close()
