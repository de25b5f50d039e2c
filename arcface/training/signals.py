"""Signals and other requests that come between two steps, which all ranks act on together.

    SIGTERM, SIGINT, SIGHUP    finish the step, save, exit with code 0: preemptible machines, Ctrl-C, a closed terminal
    SIGUSR1                    save now, and continue

SIGHUP is left alone where it is ignored when the run starts (nohup). Under `paddle.distributed.launch`, a SIGTERM to the
launcher reaches its ranks, more than once; it kills them if they take over 30 seconds. A launcher that ends by SIGHUP or
SIGKILL passes nothing on: its ranks get a SIGTERM and as much time from system/processes.py.
"""

import signal
from contextlib import AbstractContextManager
from typing import NamedTuple

import paddle

from arcface.distributed.process_group import all_reduce_sum


class Request(NamedTuple):
    """What the ranks ask for together."""

    nonfinite: bool  # not to take this step: on some rank, loss or gradient is not finite
    stop: bool
    save: bool
    unreadable: int  # different images so far that could not be read, of all ranks


class Signals(AbstractContextManager):
    """Notes signals while it is open. Ctrl-C twice ends at once."""

    def __init__(self):
        self._stop = self._save = False
        self._before = {}

    def __enter__(self) -> "Signals":
        handlers = {signal.SIGTERM: self._ask_to_stop, signal.SIGINT: self._ask_to_stop, signal.SIGUSR1: self._ask_to_save}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._ask_to_stop
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def sync(self, nonfinite: paddle.Tensor, unreadable: int) -> Request:
        """Return what the ranks ask for, the same on every rank; every rank calls it once a step.

        nonfinite: bool [], of this rank's step. unreadable: this rank's images. Reading `nonfinite` here, with the rest, is the
        one time that a step waits for the device; sampling classes waits for the labels, too.
        """
        save = self._save
        if save:  # a signal that comes after the line above is kept for the next step
            self._save = False
        own = paddle.to_tensor([self._stop, save, unreadable], "float32")  # a dtype that every backend reduces
        summed = all_reduce_sum(paddle.concat([nonfinite.astype("float32").reshape([1]), own])).tolist()
        return Request(summed[0] > 0, summed[1] > 0, summed[2] > 0, int(summed[3]))

    def _ask_to_stop(self, number: int, _) -> None:
        self._stop = True
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    def _ask_to_save(self, *_) -> None:
        self._save = True
