"""Worker processes that fill memory which they share with the process that started them.

The memory is anonymous and inherited by a fork: none of it lies in /dev/shm, whose size therefore does not matter, and
nothing is left of it when the processes are killed.
"""

import atexit
import gc
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from arcface.errors import UserError
from arcface.system.processes import LEFT_TO_PARENT, die_with_parent

SLOTS_PER_WORKER = 2  # one is filled while the other waits to be taken


def available() -> bool:
    """Whether this system can have workers: elsewhere than on Linux, a process that uses libraries cannot be forked safely."""
    return sys.platform == "linux"


class Workers:
    """`count` processes that do tasks in turn. Use as a context manager.

    fill(task, slot) does a task: it writes into `slot`, uint8 [*shape], and returns what else there is to say. It is called
    in the workers, which inherit it with all that it refers to; tasks and answers are small and can be pickled.
    """

    def __init__(self, fill: Callable[[Any, np.ndarray], Any], shape: tuple[int, ...], count: int):
        """Start the processes; raises UserError if the system refuses them or their memory."""
        self.capacity = count * SLOTS_PER_WORKER  # tasks that may be under way at once
        self._processes, self._connections = [], []
        self._free = deque(range(self.capacity))  # slots
        self._under_way: deque[tuple[int, Any]] = deque()  # slots with their tasks
        context = multiprocessing.get_context("fork")
        cv2.setNumThreads(0)  # here, since a forked process may wait forever for threads that it does not have
        atexit.register(self.close)  # comes before multiprocessing's own end, which would wait for the processes
        try:
            memory = mmap.mmap(-1, self.capacity * int(np.prod(shape)))
            self._slots = np.frombuffer(memory, np.uint8).reshape(self.capacity, *shape)
            for _ in range(count):
                ours, theirs = context.Pipe()
                self._connections.append(ours)
                process = context.Process(target=_work, args=(fill, self._slots, theirs, os.getpid()), daemon=True)
                process.start()
                self._processes.append(process)
                theirs.close()
        except OSError as error:
            self.close()
            raise UserError(
                f"--num_workers {count}: a worker process could not be started ({error.strerror});"
                " lower it, or free memory and processes"
            ) from error

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def submit(self, task: Any) -> None:
        """Have a task done; at most `capacity` may be under way. It gets the slot that has been free the longest."""
        slot = self._free.popleft()
        self._under_way.append((slot, task))
        try:
            self._connections[self._worker(slot)].send((slot, task))
        except OSError:
            self._raise_lost(slot)

    def take(self) -> tuple[Any, np.ndarray, Any]:
        """Wait for the task that was submitted first, and return it, its slot and what `fill` returned.

        Raises UserError if the worker was killed, and RuntimeError with its traceback if `fill` raised an error.
        """
        slot, task = self._under_way.popleft()
        try:
            answer, error = self._connections[self._worker(slot)].recv()
        except (EOFError, OSError):
            self._raise_lost(slot)
        if error:
            raise RuntimeError(f"in a worker process:\n{error}")
        self._free.append(slot)
        return task, self._slots[slot], answer

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()

    def _worker(self, slot: int) -> int:
        return slot % len(self._processes)

    def _raise_lost(self, slot: int) -> None:
        process = self._processes[self._worker(slot)]
        process.join(5)
        raise UserError(
            f"worker process {process.pid} of --num_workers was killed (exit code {process.exitcode}); if memory ran"
            " out, lower --num_workers or --batch_size, then --resume 1"
        )


def _work(fill: Callable[[Any, np.ndarray], Any], slots: np.ndarray, connection: Connection, parent: int) -> None:
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent)
    gc.freeze()  # a look through all objects would copy the memory that they share with the training process
    while True:
        slot, task = connection.recv()
        try:
            answer, error = fill(task, slots[slot]), None
        except Exception:
            answer, error = None, traceback.format_exc()
        connection.send((answer, error))
