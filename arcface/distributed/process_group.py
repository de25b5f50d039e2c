"""Process group: rank, world size, how ranks join, and the four collectives that everything is built from.

Only all_gather of equal shapes, all_reduce (sum, max) and broadcast are used: they are correct on gloo (CPU) and NCCL (GPU) alike.
With one rank they do nothing, so that the same code runs with and without `paddle.distributed.launch`.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paddle
import paddle.distributed as dist

from arcface.distributed.deadline import deadline
from arcface.distributed.heartbeat import Heartbeat
from arcface.distributed.interfaces import interface_of
from arcface.distributed.watchdog import Watchdog
from arcface.distributed.wire import INTERVAL
from arcface.errors import UserError

# What Paddle raises if a collective fails: on gloo; on NCCL and CUDA; from a binding; without memory on a GPU.
FAILURES = (RuntimeError, OSError, SystemError, MemoryError)

OTHER_LAUNCHERS = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # torchrun, SLURM, Open MPI, MPICH

HEAD_START = 0.3  # seconds for rank 0 to listen: Paddle waits for 3 s after one refused connection

_heartbeat: Heartbeat | None = None  # of this process, while several ranks run


def rank() -> int:
    """Return this process's number, 0 .. world_size() - 1."""
    return _number_from_launcher("PADDLE_TRAINER_ID", 0)


def world_size() -> int:
    """Return how many processes train together; 1 without a launcher."""
    return _number_from_launcher("PADDLE_TRAINERS_NUM", 1)


def _number_from_launcher(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    if not value.isdecimal():
        raise UserError(f"{variable}={value}: must be a whole number; leave it to paddle.distributed.launch")
    return int(value)


def start_ranks() -> None:
    """Join the other ranks, if there are any, on Paddle's present device."""
    if world_size() > 1 and not dist.is_initialized():
        if paddle.get_device() == "cpu":  # a Paddle built for GPUs would use NCCL, and a GPU with it
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        # Without this variable gloo uses the address of the machine's name, in many containers 127.0.0.1.
        if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_of(dist.ParallelEnv().current_endpoint)):
            os.environ["GLOO_SOCKET_IFNAME"] = name
        dist.init_parallel_env()


def endpoints() -> list[str]:
    """Return the "host:port" of each of several ranks; raises UserError if the launcher's variables contradict one another."""
    number = rank()
    needed = ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_CURRENT_ENDPOINT")
    missing = [name for name in needed if name not in os.environ]
    known = dist.ParallelEnv().trainer_endpoints  # a long list is in a file of the launcher's
    if not any(known):
        missing.append("PADDLE_TRAINER_ENDPOINTS")
    wrong = None
    if missing:
        wrong = f"without {' and '.join(missing)}"
    elif len(known) != world_size():
        wrong = f"with {len(known)} PADDLE_TRAINER_ENDPOINTS"
    elif number >= world_size():
        wrong = f"with PADDLE_TRAINER_ID={number}, which is from 0 to {world_size() - 1}"
    elif strange := [one for one in known if not _is_endpoint(one)]:
        wrong = f"with {strange[0]!r} among PADDLE_TRAINER_ENDPOINTS, which are host:port"
    elif os.environ["PADDLE_CURRENT_ENDPOINT"] != known[number]:
        wrong = f"with PADDLE_CURRENT_ENDPOINT={os.environ['PADDLE_CURRENT_ENDPOINT']}, not the endpoint of rank {number}"
    if wrong:
        raise UserError(
            f"PADDLE_TRAINERS_NUM={world_size()} is set {wrong}; start with python -m paddle.distributed.launch, which"
            " sets all of them, or unset it to train with one process"
        )
    return known


def _is_endpoint(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def unused_launcher() -> str | None:
    """Return a warning about another launcher's variables, with which several processes would each train alone; None without."""
    if world_size() > 1:
        return None
    for name in OTHER_LAUNCHERS:
        if (value := os.environ.get(name, "")).isdecimal() and int(value) > 1:
            return (
                f"{name}={value} is set but not used: this process works alone. For several that work together, run on each"
                " machine: python -m paddle.distributed.launch --nproc_per_node N train.py ..., with several machines also"
                " --master HOST:PORT --nnodes N --rank 0, 1, ..."
            )
    return None


@contextmanager
def ranks_together(timeout: float, start: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Join the other ranks for a block; if one is lost meanwhile, end this process with an error that names it.

    `start` starts the device: after the watchdog, which names a rank where that hangs, and before the first collective. A rank is
    lost if it does not join, ends before the others, or makes no progress for `timeout` seconds. Raises UserError if the ranks
    cannot join.
    """
    global _heartbeat
    if world_size() == 1:
        if complaint := unused_launcher():
            print(f"warning: {complaint}", file=sys.stderr, flush=True)
        start()
        yield
        return
    known = endpoints()
    watchdog = Watchdog(known, timeout) if rank() == 0 else None
    try:
        _heartbeat = Heartbeat(rank(), known, timeout)
        try:
            heartbeat("the start of the device")
            start()
            _join(_heartbeat, timeout)
            yield
        except FAILURES as error:
            _heartbeat.report_failure(_in_one_line(error))
            raise
        finally:
            _heartbeat.leave()
            _heartbeat = None
    finally:
        if watchdog:
            watchdog.close()


def _join(heart: Heartbeat, timeout: float) -> None:
    heart.beat("joining")
    heart.begin_collective(wait=True)
    if rank():
        time.sleep(HEAD_START)
    late = (
        f"error: rank {rank()} ends: joining the other ranks took more than {timeout:.0f} s (--rank_timeout);"
        " check in their logs whether one hangs, and that no firewall blocks their ports"
    )
    try:
        with deadline(timeout, late):
            start_ranks()
        heart.beat("the start")
    except FAILURES as error:
        heart.report_failure(_in_one_line(error))
        raise UserError(
            f"the ranks cannot connect to one another ({_in_one_line(error)}); check that no firewall blocks their ports,"
            " and that GLOO_SOCKET_IFNAME, if it is set, names an interface of every machine"
        ) from error


def _in_one_line(error: BaseException) -> str:
    """Return an error's type and its most telling line: Paddle's messages begin with a C++ traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if "Error: " in line or "error: " in line), lines[-1] if lines else "")
    return f"{type(error).__name__}: {telling}"[:400].removesuffix(": ")


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Send heartbeats from a thread during a block of work that cannot send any itself, such as reading a large list."""
    done = threading.Event()

    def keep_beating() -> None:
        while not done.wait(INTERVAL):
            heartbeat(doing)

    heartbeat(doing)
    thread = threading.Thread(target=keep_beating, name="busy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def heartbeat(doing: str) -> None:
    """Tell the watchdog that this rank makes progress, and at what: "made no progress ... during <doing>" quotes it."""
    if _heartbeat:
        _heartbeat.beat(doing)


def _before_collective() -> None:
    """Tell the watchdog that a collective is about to begin; on a CPU, return when every rank is about to enter it.

    Paddle's gloo gives up if a rank enters 30 seconds late, and has no option for that: so ranks wait here instead.
    """
    if _heartbeat:
        _heartbeat.begin_collective(wait=paddle.get_device() == "cpu")


def all_gather(x: paddle.Tensor) -> paddle.Tensor:
    """Return the ranks' tensors [n, ...], concatenated to [world_size * n, ...]; not differentiable."""
    if world_size() == 1:
        return x
    _before_collective()
    gathered = paddle.empty([world_size() * x.shape[0], *x.shape[1:]], x.dtype)
    # On the computing stream a GPU needs no event between this and what follows; gloo has no such stream.
    dist.stream.all_gather(gathered, x.detach(), use_calc_stream=paddle.get_device() != "cpu")
    return gathered


def all_reduce_sum(x: paddle.Tensor) -> paddle.Tensor:
    """Return x, replaced in place by its sum over the ranks; not differentiable."""
    if world_size() > 1:
        _before_collective()
        dist.all_reduce(x, op=dist.ReduceOp.SUM)
    return x


def all_reduce_max(x: paddle.Tensor) -> paddle.Tensor:
    """Return x, replaced in place by its maximum over the ranks; not differentiable."""
    if world_size() > 1:
        _before_collective()
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def broadcast(x: paddle.Tensor) -> paddle.Tensor:
    """Return x, replaced in place by rank 0's."""
    if world_size() > 1:
        _before_collective()
        dist.broadcast(x, src=0)
    return x
