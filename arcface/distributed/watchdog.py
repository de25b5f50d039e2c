"""Watchdog: threads of rank 0 that notice a rank which has ended, is stopped or hangs, and tell all ranks which one it is.

Once a second it tells every rank how many collectives all of them have begun, and each answers with its heartbeat. The collectives
themselves would wait for a lost rank forever. It listens at rank 0's own endpoint, which every rank knows from the launcher, until
all have joined; from then on the port is Paddle's.
"""

import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from arcface.distributed.exit_reason import exit_reason, pid_namespace
from arcface.distributed.wire import (
    FAILURE_PATIENCE,
    INTERVAL,
    did_not_join,
    in_words,
    lines,
    listen_at,
    run_id,
    send,
    send_without_delay,
)

SECONDS_TO_LEAVE = 30.0  # that rank 0 waits at its end for the other ranks


@dataclass
class RankState:
    """What the watchdog knows of a rank; times are of time.monotonic."""

    connection: socket.socket
    pid: int | None = None  # if it is a process of this machine and namespace
    collectives: int = 0  # begun
    beats: int = 0
    doing: str = ""
    left: bool = False
    closed: bool = False  # its connection, as when its process has ended
    failed: str = ""  # what a collective raised
    heard: float = field(default_factory=time.monotonic)
    progressed: float = field(default_factory=time.monotonic)


class Watchdog:
    """The watchdog of a run, in rank 0.

    Raises UserError if it cannot listen at rank 0's endpoint, the first of `endpoints`. `timeout` is in seconds.
    """

    def __init__(self, endpoints: list[str], timeout: float):
        self._endpoints, self._world_size, self._timeout = endpoints, len(endpoints), timeout
        self._ranks: dict[int, RankState] = {}
        self._started = time.monotonic()
        self._announced = -1
        self._announcing, self._joining, self._others_ended = threading.Lock(), threading.Lock(), threading.Event()
        self._server = listen_at(endpoints[0])
        for work in (self._accept, self._watch):
            threading.Thread(target=work, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Wait for the other ranks to end: without this process they would not hear of one another, nor find Paddle's store."""
        if len(self._ranks) == self._world_size:
            self._others_ended.wait(SECONDS_TO_LEAVE)
        else:
            self._stop_listening()

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone would not
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # it no longer listens
                return
            send_without_delay(connection)
            threading.Thread(target=self._listen, args=(connection,), name="watchdog", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        received = lines(connection)
        try:
            first = json.loads(next(received, b"{}"))
            state, rank = self._add(connection, **first), first["rank"]
        except (ValueError, KeyError, TypeError):
            connection.close()
            return
        for line in received:
            self._update(state, json.loads(line))
        if not state.left:
            self._announce(lost=f"rank {rank} {_how_ended(state)}; see its log")
        state.left = state.closed = True
        # Rank 0's own connection is open as long as this process, and it closes this watchdog when it has left.
        if len(self._ranks) == self._world_size and all(other.closed for rank, other in self._ranks.items() if rank):
            self._others_ended.set()

    def _add(self, connection: socket.socket, rank: int, run: str, pid: int, pid_namespace: str) -> RankState:
        """Add a rank that has connected; raises ValueError if it belongs to another run or is connected already."""
        with self._joining:
            if run != run_id(self._endpoints) or rank not in range(self._world_size) or rank in self._ranks:
                raise ValueError("not a rank of this run")
            state = RankState(connection, pid if _is_local(pid_namespace) else None)
            if len(self._ranks) == self._world_size - 1:
                self._stop_listening()  # before any rank learns that all have joined: Paddle then listens at this port
            self._ranks[rank] = state
            return state

    def _update(self, state: RankState, message: dict) -> None:
        state.heard = time.monotonic()
        state.failed = message.get("failed", state.failed)
        if "left" in message:
            state.left = True
            # At once: when its process ends, the others' collectives fail too, and who failed first is no longer known.
            if lost := self._find_lost(state.heard):
                self._announce(lost=lost)
        if "beats" in message and (message["collectives"], message["beats"]) != (state.collectives, state.beats):
            state.collectives, state.beats, state.doing = message["collectives"], message["beats"], message["doing"]
            state.progressed = state.heard
            if (begun := self._begun_by_all()) > self._announced:
                self._announce(collectives=begun)

    def _watch(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(INTERVAL)
            now = time.monotonic()
            if now - before > 3 * INTERVAL:  # this process was stopped, and perhaps all were: their time starts again
                for state in list(self._ranks.values()):
                    state.heard = state.progressed = now
            before = now
            if lost := self._find_lost(now):
                self._announce(lost=lost)
            self._announce(collectives=self._begun_by_all())

    def _begun_by_all(self) -> int:
        """Return how many collectives every rank has begun."""
        begun = [state.collectives for state in list(self._ranks.values())]
        return min(begun) if len(begun) == self._world_size else 0

    def _find_lost(self, now: float) -> str | None:
        """Return a message about ranks that will never reach the collective in which the others wait; None if there are none."""
        if absent := sorted(set(range(self._world_size)) - self._ranks.keys()):
            return did_not_join(absent, self._endpoints, self._timeout) if now - self._started > self._timeout else None
        states = sorted(self._ranks.items())
        furthest = max(state.collectives for _, state in states)
        present = [(rank, state) for rank, state in states if not state.left]
        unharmed = any(not state.failed for _, state in present)  # a rank in which a collective failed shows its own error
        if ended := [rank for rank, s in states if s.left and (s.collectives < furthest or s.failed and unharmed)]:
            failure = next((state.failed for rank, state in states if rank in ended and state.failed), "")
            return f"{in_words(ended)} ended before the others{failure and f' after {failure}'}; see the log"
        patience = FAILURE_PATIENCE if any(state.failed for _, state in states) else self._timeout
        if silent := [rank for rank, state in present if now - state.heard > patience]:
            option = " (--rank_timeout)" if patience == self._timeout else ""
            return f"{in_words(silent)} sent no heartbeat for {patience:.0f} s{option}: stopped, or the machine is unreachable"
        if len(present) < 2 or now - max(state.progressed for _, state in present) <= self._timeout:
            return None
        behind = [(rank, state) for rank, state in present if state.collectives < furthest] or present
        return (
            f"{in_words([rank for rank, _ in behind])} made no progress for {self._timeout:.0f} s (--rank_timeout)"
            f" during {behind[0][1].doing}"
        )

    def _announce(self, **message) -> None:
        with self._announcing:
            self._announced = max(self._announced, message.get("collectives", 0))
            # Rank 0 last: the message that ends its process must have reached the others.
            for _, state in sorted(self._ranks.items(), reverse=True):
                send(state.connection, message)


def _is_local(namespace: str) -> bool:
    """Whether process numbers of a namespace mean the same here."""
    return bool(namespace) and namespace == pid_namespace()


def _how_ended(state: RankState) -> str:
    """Return how a rank ended whose connection closed although it had not left."""
    known = exit_reason(state.pid) if state.pid else None
    if known and not state.failed:
        return known
    return f"has ended{state.failed and f' after {state.failed}'}"
