"""Python processes that start in a tenth of a second: forks of a server that has imported Paddle and computed nothing.

A fork inherits no threads, so the server must have none: it imports, and forks. What it forks runs a script as
`python script arguments` would, in a process group of its own, and ends as any interpreter does.
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LISTENING = "0A"  # a socket's state in /proc/net/tcp
SECONDS_TO_START = 120


@dataclass
class Request:
    """A process to be forked: what `python *command` would run, with its output in two files."""

    command: list[str]
    stdout: str
    stderr: str
    environment: dict[str, str]
    folder: str
    wait_for_port: int = 0  # start once somebody listens there: Paddle's store tries again after three seconds only


class Fork:
    """A forked process, with what tests need of subprocess.Popen; it leads a process group of its own."""

    def __init__(self, server: "ForkServer", pid: int, files: tuple[Path, Path]):
        self._server, self.pid, self._files = server, pid, files
        self.returncode: int | None = None

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._files[0].read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._files[1].read_text(errors="replace")

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask("poll", self.pid)
        return self.returncode

    def wait(self, seconds: float) -> int:
        """Return its exit code; kills its process group and fails when it is still there after some seconds."""
        ends = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > ends:
                self.kill()
                raise AssertionError(f"still there after {seconds:g} s: {self.stdout}{self.stderr}")
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process alone; nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it and all that it started."""
        kill_group(self.pid)


def kill_group(group: int) -> None:
    """End a process group, if it is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


@dataclass
class ForkServer:
    """The client's side: starts the server when it is first needed, and another in place of one that was lost."""

    folder: Path  # of the processes' output
    _connection: Connection | None = None
    _process: subprocess.Popen | None = None
    _forks: list[Fork] = field(default_factory=list)

    def start(
        self, *command: object, environment: dict[str, str] | None = None, folder: Path = REPOSITORY, wait_for_port: int = 0
    ) -> Fork:
        """Run what `python *command` would: a script with its arguments, or -m with a module and its arguments."""
        stdout, stderr = files = [self.folder / f"{len(self._forks)}.{name}" for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        environment = dict(os.environ if environment is None else environment)
        environment["OMP_NUM_THREADS"] = "1"  # the server's: the variable is read when Paddle is imported
        request = Request(list(map(str, command)), str(stdout), str(stderr), environment, str(folder), wait_for_port)
        fork = Fork(self, self.ask("fork", request), (stdout, stderr))
        self._forks.append(fork)
        return fork

    def ask(self, what: str, about: object) -> int | None:
        try:
            return self._ask(what, about)
        except (EOFError, OSError):
            self.close()
            if what == "poll":
                return -signal.SIGKILL  # it went with its server
            return self._ask(what, about)

    def _ask(self, what: str, about: object) -> int | None:
        if self._process is None:
            self._launch()
        self._connection.send((what, about))
        if not self._connection.poll(SECONDS_TO_START):
            raise EOFError("the server does not answer")
        return self._connection.recv()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, search_path()))}
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
        self._connection = Connection(ours.detach())
        theirs.close()

    def kill_forks(self) -> None:
        """End every process that is still there, and what it started."""
        if self._process:
            for fork in self._forks:
                if fork.poll() is None:
                    fork.kill()

    def close(self) -> None:
        if self._process:
            kill_group(self._process.pid)
            self._process.wait(SECONDS_TO_START)
            self._connection.close()
            self._process = self._connection = None
            for fork in self._forks:
                if fork.returncode is None:
                    fork.kill()
                    fork.returncode = -signal.SIGKILL


def search_path() -> list[Path]:
    return [REPOSITORY, REPOSITORY / "datasets", REPOSITORY / "tests" / "helpers"]


def rank_environments(ranks: int) -> list[dict[str, str]]:
    """The variables that Paddle's launcher would give to each rank of this machine."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(ranks)]
    endpoints = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    for listener in listeners:
        listener.close()
    return [
        {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(ranks),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        }
        for rank in range(ranks)
    ]


def start_ranks(server: ForkServer, ranks: int, *command: object, environment: dict[str, str] | None = None) -> list[Fork]:
    """Start `ranks` processes that train together, or one by itself; without a launcher, which would end all with the first."""
    given = dict(os.environ if environment is None else environment)
    if ranks == 1:
        return [server.start(*command, environment=given)]
    variables = rank_environments(ranks)
    port = int(variables[0]["PADDLE_CURRENT_ENDPOINT"].rpartition(":")[2])
    return [
        server.start(*command, environment={**given, **variables[rank]}, wait_for_port=port if rank else 0) for rank in range(ranks)
    ]


# ---- the server's side


def serve(connection: Connection) -> Request | None:
    """Fork and report until the client is gone; returns the request in each forked process, None in the server."""
    forked = set()
    while True:
        try:
            what, about = connection.recv()
        except (EOFError, OSError):
            for pid in forked:
                kill_group(pid)
            return None
        if what == "poll":
            ended, status = os.waitpid(about, os.WNOHANG)
            forked.discard(ended)
            connection.send(os.waitstatus_to_exitcode(status) if ended else None)
        elif pid := os.fork():
            forked.add(pid)
            connection.send(pid)
        else:
            connection.close()
            return about


def become(request: Request) -> None:
    """Run the requested script as the interpreter would."""
    os.setsid()
    for descriptor, name in ((1, request.stdout), (2, request.stderr)):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    if request.wait_for_port:
        wait_until(lambda: is_listening(request.wait_for_port), SECONDS_TO_START)
    first, *arguments = request.command
    if first == "-m":
        sys.argv[:] = arguments
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [first, *arguments]
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def is_listening(port: int) -> bool:
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file]
    return any(row[1].endswith(f":{port:04X}") and row[3] == LISTENING for row in rows[1:])


def wait_until(condition: Callable[[], object], seconds: float = 120) -> object:
    """Return what `condition` returns once that is true; fails when it is not within some seconds."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, f"waited in vain for {seconds:g} s"
        time.sleep(0.02)
    return found


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def main() -> None:
    from arcface.system.startup import start_paddle

    start_paddle()
    threads = count_threads()  # Paddle 2.6 has one, which sleeps
    import tiny_backbone  # noqa: F401
    import visualdl  # noqa: F401

    import arcface.training.trainer  # noqa: F401  what nearly every fork needs
    import arcface.verification.checkpoint  # noqa: F401
    import arcface.verification.plots  # noqa: F401
    from arcface.config import TrainConfig, parse

    parse(TrainConfig, [])
    assert count_threads() == threads <= 2, "a process with threads at work cannot be forked"
    request = serve(Connection(int(sys.argv[1])))
    if request:
        become(request)


if __name__ == "__main__":
    main()
