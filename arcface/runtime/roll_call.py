"""Which rank is where: ends the ranks that would wait for ever for one that has ended, is stopped or hangs, and names it.

Rank 0 calls the roll: once a second it tells every rank how far all of them are, and every rank answers how far it is, in
a thread and over a connection of its own, so that neither depends on the collectives. The messages are lines of JSON:

    of a rank    {"rank", "token"} first, then {"at", "ticks", "doing"}, {"failed": true} or {"left": true}
    of rank 0    {"all_at": how many collectives every rank has begun} or {"lost": "what is wrong"}
"""

import hmac
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

SECONDS_BETWEEN_CALLS = 1.0
PATIENCE_AFTER_FAILURE = 4.0  # seconds of silence that give a rank away once a collective has failed
SECONDS_TO_LEAVE = 30.0  # that rank 0 waits at the end for the others to leave
LONGEST_LINE = 4096  # bytes


class Member:
    """A rank's own entry: says how far it is, and ends the process when a rank is lost.

    `address` and `token` are those of rank 0's `Roll`; `timeout` is in seconds.
    """

    def __init__(self, rank: int, address: tuple[str, int], token: str, timeout: float):
        self._rank, self._timeout = rank, timeout
        self._at = self._ticks = self._all_at = 0
        self._doing = "the start"
        self._heard = time.monotonic()
        self._news, self._sending = threading.Condition(), threading.Lock()
        self._connection = socket.create_connection(address, timeout)
        self._connection.settimeout(SECONDS_BETWEEN_CALLS)
        _send_at_once(self._connection)
        self._send(rank=rank, token=token)
        threading.Thread(target=self._answer, name="roll call", daemon=True).start()

    def arrive(self, wait: bool) -> None:
        """Count a collective that is about to begin; with `wait`, return when every rank is there."""
        with self._news:
            self._at += 1
            if wait:
                self._send_state()
                self._news.wait_for(lambda: self._all_at >= self._at)

    def show_life(self, doing: str) -> None:
        """Show that long work goes on, and which: "got no further in <doing>"."""
        self._ticks, self._doing = self._ticks + 1, doing

    def report_failure(self) -> None:
        """Find out who is missing after a collective has failed; returns only if nobody is."""
        self._send(failed=True)
        time.sleep(PATIENCE_AFTER_FAILURE + 3 * SECONDS_BETWEEN_CALLS)
        if (silence := time.monotonic() - self._heard) > PATIENCE_AFTER_FAILURE:
            self._end(f"rank 0 has not answered for {silence:.0f} seconds")

    def leave(self) -> None:
        """Say that this rank's work is done."""
        self._send(left=True)

    def _answer(self) -> None:
        calls_missed = 0
        for line in _lines(self._connection):
            # Counted, not timed: a whole run that was stopped and goes on later has not missed them.
            calls_missed = 0 if line else calls_missed + 1
            if calls_missed * SECONDS_BETWEEN_CALLS > self._timeout:
                self._end(f"rank 0 has not answered for {self._timeout:.0f} seconds (--rank_timeout)")
            if line:
                message = json.loads(line)
                if "lost" in message:
                    self._end(message["lost"])
                self._heard = time.monotonic()
                with self._news:
                    self._all_at = message["all_at"]
                    self._news.notify_all()
                self._send_state()
        self._end("rank 0 has ended; its log says why")

    def _end(self, reason: str) -> None:
        print(f"error: rank {self._rank} ends: {reason}", file=sys.stderr, flush=True)
        if self._rank == 0:
            time.sleep(SECONDS_BETWEEN_CALLS)  # the others hear it from this process
        os._exit(1)  # the main thread may be in a collective that never returns

    def _send_state(self) -> None:
        self._send(at=self._at, ticks=self._ticks, doing=self._doing)

    def _send(self, **message) -> None:
        try:
            with self._sending:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # rank 0 is gone: `_answer` finds it out


@dataclass
class _Entry:
    """What rank 0 knows of a rank; times are of time.monotonic."""

    connection: socket.socket
    at: int = 0
    ticks: int = 0
    doing: str = ""
    left: bool = False
    heard: float = field(default_factory=time.monotonic)
    changed: float = field(default_factory=time.monotonic)


class Roll:
    """Rank 0's list of all ranks, kept by threads of its process."""

    def __init__(self, host: str, world_size: int, timeout: float):
        self.token = secrets.token_hex(16)  # keeps strangers on the network off the list
        self._world_size, self._timeout = world_size, timeout
        self._entries: dict[int, _Entry] = {}
        self._started = time.monotonic()
        self._failed = False
        self._announced = -1
        self._lock, self._everybody_left = threading.Lock(), threading.Event()
        self._server = socket.create_server((host, 0))
        self.address = self._server.getsockname()
        for work in (self._admit, self._call):
            threading.Thread(target=work, name="roll", daemon=True).start()

    def close(self) -> None:
        """Wait for the other ranks to leave, since they hear of one another through this process."""
        self._everybody_left.wait(SECONDS_TO_LEAVE)

    def _admit(self) -> None:
        while True:
            connection, _ = self._server.accept()
            _send_at_once(connection)
            threading.Thread(target=self._listen, args=(connection,), name="roll", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        lines = _lines(connection)
        try:
            hello = json.loads(next(lines, b"{}"))
            rank = hello["rank"]
            if not hmac.compare_digest(hello["token"], self.token) or rank in self._entries:
                raise ValueError("a stranger")
        except (ValueError, KeyError, TypeError):
            connection.close()
            return
        entry = self._entries[rank] = _Entry(connection)
        for line in lines:
            self._hear(entry, json.loads(line))
        if not entry.left:
            self._announce(lost=f"rank {rank} has ended; its log says why")
        entry.left = True
        if len(self._entries) == self._world_size and all(other.left for other in self._entries.values()):
            self._everybody_left.set()

    def _hear(self, entry: _Entry, message: dict) -> None:
        entry.heard = time.monotonic()
        self._failed |= "failed" in message
        entry.left |= "left" in message
        if "at" in message and (message["at"], message["ticks"]) != (entry.at, entry.ticks):
            entry.at, entry.ticks, entry.doing = message["at"], message["ticks"], message["doing"]
            entry.changed = entry.heard
            if (all_at := self._all_at()) > self._announced:
                self._announce(all_at=all_at)

    def _call(self) -> None:
        called = time.monotonic()
        while True:
            time.sleep(SECONDS_BETWEEN_CALLS)
            now = time.monotonic()
            if now - called > 3 * SECONDS_BETWEEN_CALLS:  # this process was stopped, as perhaps all were: they get their time
                for entry in self._entries.values():
                    entry.heard = entry.changed = now
            called = now
            if lost := self._find_lost(now):
                self._announce(lost=lost)
            self._announce(all_at=self._all_at())

    def _all_at(self) -> int:
        at = [entry.at for entry in self._entries.values()]
        return min(at) if len(at) == self._world_size else 0

    def _find_lost(self, now: float) -> str | None:
        """Say which ranks will not arrive where the others wait, if there are any."""
        if absent := sorted(set(range(self._world_size)) - self._entries.keys()):
            return f"{_ranks(absent)} never came" if now - self._started > self._timeout else None
        entries = sorted(self._entries.items())
        furthest = max(entry.at for _, entry in entries)
        if ended := [rank for rank, entry in entries if entry.left and entry.at < furthest]:
            return f"{_ranks(ended)} ended before the others; the log says why"
        here = [(rank, entry) for rank, entry in entries if not entry.left]
        patience = PATIENCE_AFTER_FAILURE if self._failed else self._timeout
        if silent := [rank for rank, entry in here if now - entry.heard > patience]:
            return f"{_ranks(silent)} did not answer for {patience:.0f} seconds (--rank_timeout): stopped, or the machine is gone"
        if len(here) < 2 or now - max(entry.changed for _, entry in here) <= self._timeout:
            return None
        behind = [(rank, entry) for rank, entry in here if entry.at < furthest] or here
        return (f"{_ranks([rank for rank, _ in behind])} got no further for {self._timeout:.0f} seconds (--rank_timeout)"
                f" in {behind[0][1].doing}")  # fmt: skip

    def _announce(self, **message) -> None:
        with self._lock:
            self._announced = max(self._announced, message.get("all_at", 0))
            # Rank 0 last: what ends its process must have reached the others.
            for _, entry in sorted(self._entries.items(), reverse=True):
                try:
                    entry.connection.sendall(json.dumps(message).encode() + b"\n")
                except OSError:
                    continue  # `_listen` finds out


def _send_at_once(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small messages wait 40 ms for one another


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Yield lines until the connection ends; b"" when nothing came for as long as its timeout."""
    rest = b""
    while len(rest) < LONGEST_LINE:
        try:
            received = connection.recv(LONGEST_LINE)
        except TimeoutError:
            yield b""
            continue
        except OSError:
            return
        if not received:
            return
        *lines, rest = (rest + received).split(b"\n")
        yield from lines


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
