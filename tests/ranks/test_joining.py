"""Ranks that do not come, cannot join or fail are named within the time that was set."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parents[1] / "helpers" / "joining_worker.py"
# Seconds: for a rank that never comes, for one that hangs when both have come, and for what is not to be a question of time.
SHORT, LONG, ENDLESS = 4, 15, 90


def free_endpoints(count: int) -> list[str]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    endpoints = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    for listener in listeners:
        listener.close()
    return endpoints


# name: what each of two ranks does, None if it does not come
SCENARIOS = {
    "rank 1 does not come": ([], None),
    "rank 0 does not come": (None, []),
    "one hangs while it joins": ([], ["hangs"]),
    "none can connect": (["cannot connect"], ["cannot connect"]),
    "rank 0 fails": (["fails"], []),
    "rank 1 fails": ([], ["fails"]),
    "both come": ([], []),
}


@pytest.fixture(scope="module")
def ended():
    """Of each scenario, the endpoints, and the exit code, stdout and stderr of each rank; all are started at once."""
    started, endpoints = {}, {name: free_endpoints(2) for name in SCENARIOS}
    try:
        for name, ranks in SCENARIOS.items():
            patience = SHORT if None in ranks else LONG if name == "one hangs while it joins" else ENDLESS
            for rank, what in enumerate(ranks):
                if what is None:
                    continue
                environment = {
                    **{key: value for key, value in os.environ.items() if not key.startswith(("PADDLE_", "POD_"))},
                    "PADDLE_TRAINER_ID": str(rank),
                    "PADDLE_TRAINERS_NUM": "2",
                    "PADDLE_CURRENT_ENDPOINT": endpoints[name][rank],
                    "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints[name]),
                    "PYTHONPATH": str(WORKER.parents[2]),
                }
                started[name, rank] = subprocess.Popen(
                    [sys.executable, str(WORKER), str(patience), *what],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
        said = {key: process.communicate(timeout=120) for key, process in started.items()}
        yield {key: (endpoints[key[0]], started[key].returncode, *said[key]) for key in started}
    finally:
        for process in started.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def error_line(stderr: str) -> str:
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("here, absent", [(0, 1), (1, 0)])
def test_a_rank_that_does_not_come_is_named_with_its_endpoint(ended, here, absent):
    endpoints, code, stdout, stderr = ended[f"rank {absent} does not come", here]
    begins = "error: rank 0 ends: " if here == 0 else "error: "
    assert error_line(stderr).startswith(
        f"{begins}rank {absent} ({endpoints[absent]}) did not join within {SHORT} s (--rank_timeout); check that it runs"
    )
    assert code != 0 and stdout == "" and "Traceback" not in stderr


def test_joining_itself_takes_no_longer_than_was_set(ended):
    _, code, stdout, stderr = ended["one hangs while it joins", 0]
    assert error_line(stderr).startswith(f"error: rank 0 ends: joining the other ranks took more than {LONG} s (--rank")
    assert code == -signal.SIGKILL and stdout == ""
    _, code, stdout, stderr = ended["one hangs while it joins", 1]
    assert error_line(stderr).startswith("error: rank 1 ends: rank 0 has") and code == 1 and stdout == ""


NCCL_ERROR = "OSError: ExternalError: NCCL error(2), unhandled system error."


def test_what_keeps_a_rank_from_connecting_is_one_line(ended):
    _, code, stdout, stderr = ended["none can connect", 0]
    assert code == 2 and stdout == ""
    assert error_line(stderr).startswith(f"error: the ranks cannot connect to one another ({NCCL_ERROR}); check that")


@pytest.mark.parametrize("failed", [0, 1])
def test_what_a_collective_of_another_rank_raised_is_named(ended, failed):
    other = 1 - failed
    _, code, stdout, stderr = ended[f"rank {failed} fails", other]
    assert code != 0 and stdout == "together\n"
    assert error_line(stderr) == f"error: rank {other} ends: rank {failed} ended before the others after {NCCL_ERROR}; see the log"
    _, code, _, stderr = ended[f"rank {failed} fails", failed]
    assert code != 0 and "OSError" in stderr and "error: rank" not in stderr  # its own error, and not that it is lost


def test_paddle_joins_at_the_endpoint_at_which_the_ranks_met(ended):
    assert [ended["both come", rank][1:3] for rank in range(2)] == [(0, "together\ndone\n")] * 2
