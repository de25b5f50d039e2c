"""Messages between the ranks and the watchdog: lines of JSON over a TCP connection to rank 0's endpoint.

from a rank   {"rank", "run", "pid", "pid_namespace"} first, then heartbeats {"collectives": how many it has begun, "beats": how
              many signs of progress it has given, "doing": what}, {"failed": "what a collective raised"} or {"left": true}
from rank 0   once a second {"collectives": how many every rank has begun}, or {"lost": "which rank, and how"}
"""

import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator

from arcface.errors import UserError

INTERVAL = 1.0  # seconds between heartbeats
RETRY_INTERVAL = 0.2  # seconds between attempts to reach rank 0
FAILURE_PATIENCE = 4.0  # seconds of silence after which a rank is lost, once a collective has failed
LONGEST_LINE = 4096  # bytes


def listen_at(endpoint: str) -> socket.socket:
    """Return a server socket at "host:port"; raises UserError if the port is in use."""
    host, port = _split(endpoint)
    try:
        try:
            return socket.create_server((host, port))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return socket.create_server(("", port))  # the address is a router's, which forwards to this machine
    except OSError as error:
        raise UserError(
            f"rank 0 cannot listen at its endpoint {endpoint} ({error.strerror or error}); end the process that uses the port,"
            " or start the run again with other ports"
        ) from error


def connect(endpoints: list[str], timeout: float) -> socket.socket:
    """Return a connection to rank 0, which may start later than this rank; raises UserError after `timeout` seconds."""
    gives_up = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(_split(endpoints[0]), max(RETRY_INTERVAL, gives_up - time.monotonic()))
            if connection.getsockname() != connection.getpeername():
                send_without_delay(connection)
                return connection
            connection.close()  # the system gave this socket the very port that it calls: it has reached itself
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        except OSError as error:  # also a name that cannot be resolved
            if time.monotonic() > gives_up:
                raise UserError(f"{did_not_join([0], endpoints, timeout)} ({error.strerror or error})") from error
        time.sleep(RETRY_INTERVAL)


def send_without_delay(connection: socket.socket) -> None:
    """Have a connection send small messages at once; by default they wait 40 ms for one another."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(connection: socket.socket, message: dict) -> None:
    """Send a message. A closed connection is no error here: whoever reads from it notices."""
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass


def lines(connection: socket.socket) -> Iterator[bytes]:
    """Yield the lines that arrive until the connection closes; b"" when none came within its timeout."""
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
        *complete, rest = (rest + received).split(b"\n")
        yield from complete


def run_id(endpoints: list[str]) -> str:
    """Return what tells this run's ranks from another run's that uses one of its ports; it is no secret."""
    return hashlib.sha256(",".join(endpoints).encode()).hexdigest()


def did_not_join(absent: list[int], endpoints: list[str], timeout: float) -> str:
    """Return the message about ranks that did not connect in time."""
    where = ", ".join(endpoints[rank] for rank in absent)
    return (
        f"{in_words(absent)} ({where}) did not join within {timeout:.0f} s (--rank_timeout);"
        " check that it runs and that no firewall blocks the port"
    )


def in_words(ranks: list[int]) -> str:
    """Return "rank 1" or "ranks 1, 2"."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _split(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host, int(port)
