"""Ranks: who am I, how many are we, and the few collectives that everything is built from.

Only all_gather of equal shapes, all_reduce and broadcast are used: they are right on gloo (CPU) and NCCL (GPU) alike.
All of them are no-ops with one rank, so that the same code runs with and without `paddle.distributed.launch`.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paddle
import paddle.distributed as dist

from arcface.distributed.deadline import deadline
from arcface.distributed.interfaces import interface_of
from arcface.distributed.watchdog import SECONDS_BETWEEN_CALLS, Member, Roll
from arcface.errors import UserError

# What Paddle makes of a collective that fails: gloo's errors; NCCL's and CUDA's; a binding's; no memory on a GPU.
FAILURES = (RuntimeError, OSError, SystemError, MemoryError)

OTHER_LAUNCHERS = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # torchrun, SLURM, Open MPI, MPICH

HEAD_START = 0.3  # seconds for rank 0 to listen: Paddle waits for 3 after it was refused once

_member: Member | None = None  # of this process in the roll call, while there is one


def rank() -> int:
    """This process's number, 0 .. world_size() - 1."""
    return _number_from_launcher("PADDLE_TRAINER_ID", 0)


def world_size() -> int:
    """How many processes train together; 1 without a launcher."""
    return _number_from_launcher("PADDLE_TRAINERS_NUM", 1)


def _number_from_launcher(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    if not value.isdecimal():
        raise UserError(f"{variable}={value}: not a number; leave it to paddle.distributed.launch")
    return int(value)


def start_ranks() -> None:
    """Join the other ranks, if there are any; on the device that was chosen before."""
    if world_size() > 1 and not dist.is_initialized():
        if paddle.get_device() == "cpu":  # a Paddle built for GPUs would take NCCL, and its GPU with it
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        # Where this is not set, gloo takes the address of the machine's name, in many containers 127.0.0.1.
        if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_of(dist.ParallelEnv().current_endpoint)):
            os.environ["GLOO_SOCKET_IFNAME"] = name
        dist.init_parallel_env()


def endpoints() -> list[str]:
    """Return the "host:port" of each of several ranks; raises UserError if the variables of the ranks do not fit together."""
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
    """Return a sentence about variables of another launcher, which would have several processes each train alone."""
    if world_size() > 1:
        return None
    for name in OTHER_LAUNCHERS:
        if (value := os.environ.get(name, "")).isdecimal() and int(value) > 1:
            return (
                f"{name}={value} is set and not used: this process works alone. For several that work together, run on each"
                " machine: python -m paddle.distributed.launch --nproc_per_node N train.py ..., with several machines also"
                " --master HOST:PORT --nnodes N --rank 0, 1, ..."
            )
    return None


@contextmanager
def ranks_together(timeout: float) -> Iterator[None]:
    """Join the other ranks, and end this process with an error that names the rank if one is lost meanwhile.

    A rank is lost when it does not come, when it ends before the others, or when they waited for it for `timeout` seconds.
    Raises UserError if the ranks cannot join.
    """
    global _member
    if world_size() == 1:
        if complaint := unused_launcher():
            print(f"warning: {complaint}", file=sys.stderr, flush=True)
        yield
        return
    known = endpoints()
    roll = Roll(known, timeout) if rank() == 0 else None
    try:
        _member = Member(rank(), known, timeout)
        try:
            _join(_member, timeout)
            yield
        except FAILURES as error:
            _member.report_failure(_in_one_line(error))
            raise
        finally:
            _member.leave()
            _member = None
    finally:
        if roll:
            roll.close()


def _join(member: Member, timeout: float) -> None:
    member.heartbeat("joining")
    member.arrive(wait=True)
    if rank():
        time.sleep(HEAD_START)
    late = (
        f"error: rank {rank()} ends: joining the others took more than {timeout:.0f} seconds (--rank_timeout);"
        " see in their logs whether one hangs, and that no firewall is between them"
    )
    try:
        with deadline(timeout, late):
            start_ranks()
        member.heartbeat("the start")
    except FAILURES as error:
        member.report_failure(_in_one_line(error))
        raise UserError(
            f"the ranks cannot connect to one another ({_in_one_line(error)}); see that no firewall is between them,"
            " and that GLOO_SOCKET_IFNAME, if it is set, names an interface of every machine"
        ) from error


def _in_one_line(error: BaseException) -> str:
    """Return the kind of an error and the line of it that tells most: Paddle's begin with a C++ traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if "Error: " in line or "error: " in line), lines[-1] if lines else "")
    return f"{type(error).__name__}: {telling}"[:400].removesuffix(": ")


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Show life, by a thread, while work goes on that cannot show any itself, such as reading a large list."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(SECONDS_BETWEEN_CALLS):
            heartbeat(doing)

    heartbeat(doing)
    thread = threading.Thread(target=go_on, name="busy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def heartbeat(doing: str) -> None:
    """Show that long work goes on, and which, so that nobody takes this rank for lost."""
    if _member:
        _member.heartbeat(doing)


def before_collective() -> None:
    """Count a collective that is about to begin; on a CPU, return when every rank is there.

    Paddle's gloo gives up when a rank comes 30 seconds late, and that cannot be set: so ranks wait before they enter it.
    Those below call this; whoever has Paddle begin a collective by other means, calls it before.
    """
    if _member:
        _member.arrive(wait=paddle.get_device() == "cpu")


def all_gather(x: paddle.Tensor) -> paddle.Tensor:
    """Return the ranks' tensors [n, ...] one after the other, [world_size * n, ...]; not differentiable."""
    if world_size() == 1:
        return x
    before_collective()
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, x.detach())
    return paddle.concat(parts)


def all_reduce_sum(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by its sum over the ranks, and return it; not differentiable."""
    if world_size() > 1:
        before_collective()
        dist.all_reduce(x, op=dist.ReduceOp.SUM)
    return x


def all_reduce_max(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by its maximum over the ranks, and return it; not differentiable."""
    if world_size() > 1:
        before_collective()
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def broadcast(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by rank 0's, and return it."""
    if world_size() > 1:
        before_collective()
        dist.broadcast(x, src=0)
    return x
