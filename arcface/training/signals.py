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

import numpy as np
import paddle

from arcface.distributed.process_group import all_reduce_sum, world_size
from arcface.system.transfer import to_device


class Request(NamedTuple):
    """What the ranks ask for together."""

    nonfinite: bool = False  # not to take this step: on some rank, loss or gradient is not finite
    stop: bool = False
    save: bool = False
    unreadable: int = 0  # different images so far that could not be read, of all ranks

    @classmethod
    def of(cls, summed: np.ndarray) -> "Request":
        """Return the request that `Signals.sync` computed: float32 [4], a dtype that every backend reduces."""
        return cls(bool(summed[0] < world_size()), bool(summed[1] > 0), bool(summed[2] > 0), int(summed[3]))


class Signals(AbstractContextManager):
    """Notes signals while it is open. Ctrl-C twice ends at once."""

    def __init__(self):
        self._stop = self._save = False
        self._before = {}
        self._asked: tuple[bool, bool, int] | None = None  # by this rank in the step before
        self._on_device: paddle.Tensor | None = None  # the same, float32 [3]

    def __enter__(self) -> "Signals":
        handlers = {signal.SIGTERM: self._ask_to_stop, signal.SIGINT: self._ask_to_stop, signal.SIGUSR1: self._ask_to_save}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._ask_to_stop
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def sync(self, finite: paddle.Tensor, unreadable: int) -> paddle.Tensor:
        """Return what the ranks ask for, summed over them, on the device: float32 [4], for `Request.of`.

        Every rank calls it once a step. finite: bool [1], of this rank's step. unreadable: this rank's images.
        """
        save = self._save
        if save:  # a signal that comes after the line above is kept for the next step
            self._save = False
        own = (self._stop, save, unreadable)
        if own != self._asked:  # seldom: a copy to the device takes its time
            self._asked, self._on_device = own, to_device(np.array(own, np.float32))
        return all_reduce_sum(paddle.concat([finite.astype("float32"), self._on_device]))

    def _ask_to_stop(self, number: int, _) -> None:
        self._stop = True
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    def _ask_to_save(self, *_) -> None:
        self._save = True
