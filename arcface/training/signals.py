"""What may come between two steps, decided by all ranks together: a signal, or a step that must not be taken.

    SIGTERM, SIGINT, SIGHUP    finish the step, save, end with exit code 0: preemptible machines, Ctrl-C, a closed terminal
    SIGUSR1                    save now, and go on

SIGHUP is left alone where it is ignored when the run starts (nohup). Under `paddle.distributed.launch`, a SIGTERM to the
launcher reaches its ranks, more than once; it kills them if they take over 30 seconds. A launcher that ends by SIGHUP or
SIGKILL passes nothing on: its ranks get a SIGTERM and as much time from system/processes.py.
"""

import signal
from contextlib import AbstractContextManager
from typing import NamedTuple

import paddle

from arcface.distributed.process_group import all_reduce_max


class Agreement(NamedTuple):
    """What at least one rank asked for."""

    bad_step: bool
    stop: bool
    save: bool


class Interruptions(AbstractContextManager):
    """Notes signals while it is open. Ctrl-C twice ends at once."""

    def __init__(self):
        self._stop = self._save = False
        self._before = {}

    def __enter__(self) -> "Interruptions":
        handlers = {signal.SIGTERM: self._ask_to_stop, signal.SIGINT: self._ask_to_stop, signal.SIGUSR1: self._ask_to_save}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._ask_to_stop
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self, finite: paddle.Tensor) -> Agreement:
        """Return what any rank wants, the same on every rank; called by every rank once a step.

        finite: bool [], whether the step may be taken. That it is read here, with the rest, is a step's one wait for the device;
        sampling classes waits for the labels, too.
        """
        save = self._save
        if save:  # a signal that comes after the line above is kept for the next step
            self._save = False
        signals = paddle.to_tensor([self._stop, save], "float32")  # a dtype that every backend reduces
        wishes = paddle.concat([1 - finite.astype("float32").reshape([1]), signals])
        return Agreement(*(wish > 0 for wish in all_reduce_max(wishes).tolist()))

    def _ask_to_stop(self, number: int, _) -> None:
        self._stop = True
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    def _ask_to_save(self, *_) -> None:
        self._save = True
