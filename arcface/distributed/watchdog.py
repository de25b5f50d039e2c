"""Which rank is where: ends the ranks that would wait for ever for one that has ended, is stopped or hangs, and names it.

Rank 0 calls the roll: once a second it tells every rank how far all of them are, and every rank answers how far it is, in
a thread and over a connection of its own, so that neither depends on the collectives. It listens at its own endpoint, which
every rank knows from the launcher, until all have come; then the port is Paddle's. The messages are lines of JSON:

    of a rank    {"rank", "run", "process", "namespace"} first, then {"at", "ticks", "doing"}, {"failed": "what was raised"}
                 or {"left": true}
    of rank 0    {"all_at": how many collectives every rank has begun} or {"lost": "what is wrong"}
"""

import errno
import hashlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from arcface.distributed.departed import how_ended, pid_namespace
from arcface.errors import UserError

SECONDS_BETWEEN_CALLS = 1.0
SECONDS_BETWEEN_TRIES = 0.2  # to reach rank 0
PATIENCE_AFTER_FAILURE = 4.0  # seconds of silence that give a rank away once a collective has failed
SECONDS_TO_LEAVE = 30.0  # that rank 0 waits at the end for the others to leave
LONGEST_LINE = 4096  # bytes


class Member:
    """A rank's own entry: says how far it is, and ends the process when a rank is lost.

    `endpoints` are the ranks' "host:port"; `timeout` is in seconds. Raises UserError if rank 0 cannot be reached for so long.
    """

    def __init__(self, rank: int, endpoints: list[str], timeout: float):
        self._rank, self._timeout = rank, timeout
        self._at = self._ticks = self._all_at = 0
        self._doing, self._left = "the start", False
        self._heard = time.monotonic()
        self._news, self._sending = threading.Condition(), threading.Lock()
        self._connection = _reach(endpoints, timeout)
        self._connection.settimeout(SECONDS_BETWEEN_CALLS)
        _send_at_once(self._connection)
        self._send(rank=rank, run=_name_of_run(endpoints), process=os.getpid(), namespace=pid_namespace())
        threading.Thread(target=self._answer, name="roll call", daemon=True).start()

    def arrive(self, wait: bool) -> None:
        """Count a collective that is about to begin; with `wait`, return when every rank is there."""
        with self._news:
            self._at += 1
            if wait:
                self._send_state()
                self._news.wait_for(lambda: self._all_at >= self._at)

    def heartbeat(self, doing: str) -> None:
        """Show that long work goes on, and which: "got no further in <doing>"."""
        self._ticks, self._doing = self._ticks + 1, doing

    def report_failure(self, error: str) -> None:
        """Find out who is missing after a collective has failed with an error; returns only if nobody is."""
        self._send(failed=error)
        time.sleep(PATIENCE_AFTER_FAILURE + 3 * SECONDS_BETWEEN_CALLS)
        if (silence := time.monotonic() - self._heard) > PATIENCE_AFTER_FAILURE:
            self._end(f"rank 0 has not answered for {silence:.0f} seconds")

    def leave(self) -> None:
        """Say that this rank's work is done; what becomes of the others no longer ends it."""
        self._left = True
        self._send(left=True)

    def _answer(self) -> None:
        calls_missed = 0
        for line in _lines(self._connection):
            if self._left:
                continue
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
        if not self._left:
            self._end("rank 0 has ended; its log says why")

    def _end(self, reason: str) -> None:
        with suppress(OSError):  # a terminal that is gone
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
    process: int | None = None  # its number, where it means the same as here
    at: int = 0
    ticks: int = 0
    doing: str = ""
    left: bool = False
    failed: str = ""  # what a collective raised
    heard: float = field(default_factory=time.monotonic)
    changed: float = field(default_factory=time.monotonic)


class Roll:
    """Rank 0's list of all ranks, kept by threads of its process.

    Raises UserError if its endpoint, the first of `endpoints`, cannot be listened at.
    """

    def __init__(self, endpoints: list[str], timeout: float):
        self._endpoints, self._world_size, self._timeout = endpoints, len(endpoints), timeout
        self._entries: dict[int, _Entry] = {}
        self._started = time.monotonic()
        self._announced = -1
        self._lock, self._entering, self._everybody_left = threading.Lock(), threading.Lock(), threading.Event()
        self._server = _listen_at(endpoints[0])
        for work in (self._admit, self._call):
            threading.Thread(target=work, name="roll", daemon=True).start()

    def close(self) -> None:
        """Wait for the other ranks to leave, since they hear of one another through this process."""
        if len(self._entries) == self._world_size:
            self._everybody_left.wait(SECONDS_TO_LEAVE)
        else:
            self._stop_listening()

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone would not
        self._server.close()

    def _admit(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # it no longer listens
                return
            _send_at_once(connection)
            threading.Thread(target=self._listen, args=(connection,), name="roll", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        lines = _lines(connection)
        try:
            hello = json.loads(next(lines, b"{}"))
            entry, rank = self._enter(connection, **hello), hello["rank"]
        except (ValueError, KeyError, TypeError):
            connection.close()
            return
        for line in lines:
            self._hear(entry, json.loads(line))
        if not entry.left:
            self._announce(lost=f"rank {rank} {_end_of(entry)}; its log says why")
        entry.left = True
        if len(self._entries) == self._world_size and all(other.left for other in self._entries.values()):
            self._everybody_left.set()

    def _enter(self, connection: socket.socket, rank: int, run: str, process: int, namespace: str) -> _Entry:
        """Put a rank on the list; raises ValueError for whoever is none of this run, or comes twice."""
        with self._entering:
            if run != _name_of_run(self._endpoints) or rank not in range(self._world_size) or rank in self._entries:
                raise ValueError("a stranger")
            entry = _Entry(connection, process if namespace and namespace == pid_namespace() else None)
            if len(self._entries) == self._world_size - 1:
                self._stop_listening()  # before anybody learns that all are here: Paddle then listens at this port
            self._entries[rank] = entry
            return entry

    def _hear(self, entry: _Entry, message: dict) -> None:
        entry.heard = time.monotonic()
        entry.failed = message.get("failed", entry.failed)
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
                for entry in list(self._entries.values()):
                    entry.heard = entry.changed = now
            called = now
            if lost := self._find_lost(now):
                self._announce(lost=lost)
            self._announce(all_at=self._all_at())

    def _all_at(self) -> int:
        at = [entry.at for entry in list(self._entries.values())]
        return min(at) if len(at) == self._world_size else 0

    def _find_lost(self, now: float) -> str | None:
        """Say which ranks will not arrive where the others wait, if there are any."""
        if absent := sorted(set(range(self._world_size)) - self._entries.keys()):
            return _did_not_come(absent, self._endpoints, self._timeout) if now - self._started > self._timeout else None
        entries = sorted(self._entries.items())
        furthest = max(entry.at for _, entry in entries)
        here = [(rank, entry) for rank, entry in entries if not entry.left]
        unharmed = any(not entry.failed for _, entry in here)  # ranks that failed themselves tell their own error
        if ended := [rank for rank, entry in entries if entry.left and (entry.at < furthest or entry.failed and unharmed)]:
            why = next((entry.failed for rank, entry in entries if rank in ended and entry.failed), "")
            return f"{in_words(ended)} ended before the others{why and f' after {why}'}; the log says why"
        patience = PATIENCE_AFTER_FAILURE if any(entry.failed for _, entry in entries) else self._timeout
        if silent := [rank for rank, entry in here if now - entry.heard > patience]:
            option = " (--rank_timeout)" if patience == self._timeout else ""
            return f"{in_words(silent)} did not answer for {patience:.0f} seconds{option}: stopped, or the machine is gone"
        if len(here) < 2 or now - max(entry.changed for _, entry in here) <= self._timeout:
            return None
        behind = [(rank, entry) for rank, entry in here if entry.at < furthest] or here
        return (
            f"{in_words([rank for rank, _ in behind])} got no further for {self._timeout:.0f} seconds (--rank_timeout)"
            f" in {behind[0][1].doing}"
        )

    def _announce(self, **message) -> None:
        with self._lock:
            self._announced = max(self._announced, message.get("all_at", 0))
            # Rank 0 last: what ends its process must have reached the others.
            for _, entry in sorted(self._entries.items(), reverse=True):
                try:
                    entry.connection.sendall(json.dumps(message).encode() + b"\n")
                except OSError:
                    continue  # `_listen` finds out


def _end_of(entry: _Entry) -> str:
    """Return how a rank has ended that did not say so itself."""
    known = how_ended(entry.process) if entry.process else None
    if known and not entry.failed:
        return known
    return f"has ended{entry.failed and f' after {entry.failed}'}"


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


def _listen_at(endpoint: str) -> socket.socket:
    host, port = _split(endpoint)
    try:
        try:
            return socket.create_server((host, port))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return socket.create_server(("", port))  # the address is of a router, which passes on what comes there
    except OSError as error:
        raise UserError(
            f"rank 0 cannot listen at {endpoint}, its endpoint ({error.strerror or error}): end what does,"
            " or start the run again, with other ports"
        ) from error


def _reach(endpoints: list[str], timeout: float) -> socket.socket:
    """Return a connection to rank 0, which may come later than this rank."""
    gives_up = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(_split(endpoints[0]), max(SECONDS_BETWEEN_TRIES, gives_up - time.monotonic()))
            if connection.getsockname() != connection.getpeername():
                return connection
            connection.close()  # this socket got the port that it looks for, and has reached itself
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        except OSError as error:  # also a name that cannot be resolved
            if time.monotonic() > gives_up:
                raise UserError(f"{_did_not_come([0], endpoints, timeout)} ({error.strerror or error})") from error
        time.sleep(SECONDS_BETWEEN_TRIES)


def _split(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host, int(port)


def _name_of_run(endpoints: list[str]) -> str:
    """Tell this run's ranks from those of another that uses a port of it; it is no secret."""
    return hashlib.sha256(",".join(endpoints).encode()).hexdigest()


def _did_not_come(absent: list[int], endpoints: list[str], timeout: float) -> str:
    where = ", ".join(endpoints[rank] for rank in absent)
    return (
        f"{in_words(absent)} ({where}) did not come within {timeout:.0f} seconds (--rank_timeout);"
        " see that it runs, and that no firewall is between"
    )


def in_words(ranks: list[int]) -> str:
    """Return what messages call some ranks."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
