"""Heartbeat of a rank: tells the watchdog how far this rank is, and ends the process when another rank is lost.

It runs in a thread and over a connection of its own, so that it works while a collective blocks the main thread.
"""

import json
import os
import sys
import threading
import time
from contextlib import suppress

from arcface.distributed.exit_reason import pid_namespace
from arcface.distributed.wire import FAILURE_PATIENCE, INTERVAL, connect, lines, run_id, send


class Heartbeat:
    """The heartbeat of this process.

    `endpoints` are the ranks' "host:port"; `timeout` is in seconds. Raises UserError if rank 0 cannot be reached for so long.
    """

    def __init__(self, rank: int, endpoints: list[str], timeout: float):
        self._rank, self._timeout = rank, timeout
        self._collectives = self._beats = self._begun_by_all = 0
        self._doing, self._left = "the start", False
        self._heard = time.monotonic()
        self._news, self._sending = threading.Condition(), threading.Lock()
        self._connection = connect(endpoints, timeout)
        self._connection.settimeout(INTERVAL)
        self._send(rank=rank, run=run_id(endpoints), pid=os.getpid(), pid_namespace=pid_namespace())
        threading.Thread(target=self._answer, name="heartbeat", daemon=True).start()

    def begin_collective(self, wait: bool) -> None:
        """Count a collective that this rank is about to enter; with `wait`, return when every rank is about to."""
        with self._news:
            self._collectives += 1
            if wait:
                self._send_state()
                self._news.wait_for(lambda: self._begun_by_all >= self._collectives)

    def beat(self, doing: str) -> None:
        """Record progress, and at what: a message "made no progress during <doing>" quotes the last."""
        self._beats, self._doing = self._beats + 1, doing

    def report_failure(self, error: str) -> None:
        """Tell the watchdog that a collective raised an error; ends the process if a rank is lost, else returns."""
        self._send(failed=error)
        time.sleep(FAILURE_PATIENCE + 3 * INTERVAL)
        if (silence := time.monotonic() - self._heard) > FAILURE_PATIENCE:
            self._end(f"no message from rank 0 for {silence:.0f} s")

    def leave(self) -> None:
        """Tell the watchdog that this rank is done; from now on a lost rank does not end this process."""
        self._left = True
        self._send(left=True)

    def _answer(self) -> None:
        missed = 0
        for line in lines(self._connection):
            if self._left:
                continue
            # Counted, not timed: a whole run that was stopped and continued has missed none.
            missed = 0 if line else missed + 1
            if missed * INTERVAL > self._timeout:
                self._end(f"no message from rank 0 for {self._timeout:.0f} s (--rank_timeout)")
            if line:
                message = json.loads(line)
                if "lost" in message:
                    self._end(message["lost"])
                self._heard = time.monotonic()
                with self._news:
                    self._begun_by_all = message["collectives"]
                    self._news.notify_all()
                self._send_state()
        if not self._left:
            self._end("rank 0 has ended; see its log")

    def _end(self, reason: str) -> None:
        with suppress(OSError):  # the terminal may be closed
            print(f"error: rank {self._rank} ends: {reason}", file=sys.stderr, flush=True)
        if self._rank == 0:
            time.sleep(INTERVAL)  # the watchdog of this process still tells the others
        os._exit(1)  # the main thread may be in a collective that never returns

    def _send_state(self) -> None:
        self._send(collectives=self._collectives, beats=self._beats, doing=self._doing)

    def _send(self, **message) -> None:
        with self._sending:
            send(self._connection, message)
