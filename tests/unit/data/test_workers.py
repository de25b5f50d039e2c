"""Workers do tasks in order, end with the process that started them, and leave nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forks import wait_until

from arcface.data.workers import SLOTS_PER_WORKER, Workers
from arcface.errors import UserError

SHAPE = (5, 7)


def fill(task: int, slot: np.ndarray) -> int:
    if task < 0:
        raise ValueError(f"no task: {task}")
    slot[:] = task % 256
    return os.getpid()


def slow(seconds: float, slot: np.ndarray) -> None:
    time.sleep(seconds)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(workers: Workers) -> list[int]:
    return [process.pid for process in workers._processes]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tasks_are_done_in_turn_and_come_back_in_their_order(count):
    with Workers(fill, SHAPE, count) as workers:
        assert workers.capacity == count * SLOTS_PER_WORKER
        for task in range(workers.capacity):
            workers.submit(task)
        done_by = []
        for task in range(300):
            taken, slot, pid = workers.take()
            assert taken == task and slot.shape == SHAPE and (slot == task % 256).all()
            done_by.append(pid)
            if task + workers.capacity < 300:
                workers.submit(task + workers.capacity)
        assert done_by == [done_by[number % count] for number in range(300)] and len(set(done_by)) == count


def test_a_slot_is_not_written_before_its_successor_is_submitted():
    with Workers(fill, SHAPE, 1) as workers:
        for task in range(workers.capacity):
            workers.submit(task)
        slots = [workers.take()[1] for _ in range(workers.capacity)]
        workers.submit(100)
        _, slot, _ = workers.take()
        assert np.array_equal(slot, slots[0]) and (slot == 100).all()
        assert [int(slot[0, 0]) for slot in slots[1:]] == list(range(1, workers.capacity))


def test_an_error_in_a_worker_comes_with_its_traceback():
    with Workers(fill, SHAPE, 2) as workers:
        workers.submit(-5)
        with pytest.raises(RuntimeError, match=r"(?s)in a worker process:.*in fill.*ValueError: no task: -5"):
            workers.take()


@pytest.mark.parametrize("at_work", [True, False])
def test_a_worker_that_is_killed_is_told_in_one_line(at_work):
    with Workers(slow, SHAPE, 2) as workers:
        if at_work:
            workers.submit(1000)
        killed = pids(workers)[0]
        os.kill(killed, signal.SIGKILL)
        assert workers._connections[0].poll(20)  # its end of the pipe is closed
        with pytest.raises(UserError, match=f"worker process {killed} of --num_workers was killed .exit code -9.; .*lower"):
            workers.take() if at_work else workers.submit(1000)


def test_signals_that_mean_the_training_process_do_not_end_a_worker():
    with Workers(fill, SHAPE, 1) as workers:
        workers.submit(1)
        workers.take()  # it has come so far that it ignores them
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pids(workers)[0], number)
        workers.submit(2)
        assert workers.take()[0] == 2


def test_closing_does_not_wait_for_work_and_leaves_no_process():
    with Workers(slow, SHAPE, 3) as workers:
        for _ in range(workers.capacity):
            workers.submit(1000)
    assert not any(map(is_alive, pids(workers)))


def mapped_from_dev_shm(process: str) -> set[str]:
    return set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{process}/maps").read_text()))


def test_the_memory_and_the_signals_of_a_worker_are_not_in_dev_shm():
    before = mapped_from_dev_shm("self")
    with Workers(fill, SHAPE, 1) as workers:
        workers.submit(1)
        workers.take()
        process = Path(f"/proc/{pids(workers)[0]}")
        assert mapped_from_dev_shm(process.name) <= before
        assert not any(os.readlink(file).startswith("/dev/shm") for file in (process / "fd").iterdir())


def test_memory_that_the_system_does_not_give_is_told_in_one_line():
    with pytest.raises(UserError, match="--num_workers 1: a worker process could not be started .Cannot allocate memory.; lower"):
        Workers(fill, (2**46,), 1)


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from arcface.data.workers import Workers
def fill(task, slot):
    time.sleep(task)
workers = Workers(fill, (10,), 2)
print(*[process.pid for process in workers._processes], flush=True)
workers.submit(0); workers.take()
for _ in range(2):
    workers.submit(1000)
{then}
"""


@pytest.fixture
def start(start_process, repository):
    """Returns a function that starts a process with two busy workers, and returns it and them."""

    def run(then: str) -> tuple[subprocess.Popen, list[int]]:
        process = start_process(
            [sys.executable, "-c", SCRIPT.format(path=[str(repository)], then=then)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, list(map(int, process.stdout.readline().split()))

    return run


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)", "1 / 0"])
def test_a_process_that_ends_does_not_wait_for_its_workers(start, then):
    process, workers = start(then)
    process.communicate(timeout=20)
    assert process.returncode == {"": 0, "raise SystemExit(3)": 3, "1 / 0": 1}[then]
    assert not any(map(is_alive, workers))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_a_process_that_is_killed(start, number):
    process, workers = start("time.sleep(1000)")
    assert all(map(is_alive, workers))
    process.send_signal(number)
    process.wait(20)
    wait_until(lambda: not any(map(is_alive, workers)), 20)
