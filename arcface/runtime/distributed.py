"""Ranks: who am I, how many are we, and the few collectives that everything is built from.

Only all_gather of equal shapes, all_reduce and broadcast are used: they are right on gloo (CPU) and NCCL (GPU) alike.
All of them are no-ops with one rank, so that the same code runs with and without `paddle.distributed.launch`.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import paddle
import paddle.distributed as dist

from arcface.errors import UserError
from arcface.runtime.roll_call import Member, Roll

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
        dist.init_parallel_env()


@contextmanager
def ranks_together(timeout: float) -> Iterator[None]:
    """Join the other ranks, and end this process with an error that names the rank if one is lost meanwhile.

    A rank is lost when it ends before the others, or when they have waited for it for `timeout` seconds.
    """
    global _member
    start_ranks()
    if world_size() == 1:
        yield
        return
    host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]
    roll = Roll(host, world_size(), timeout) if rank() == 0 else None
    invitation = bytearray(64)
    if roll:
        invitation[:] = f"{socket.gethostbyname(host)} {roll.address[1]} {roll.token}".encode().ljust(64)
    broadcast(received := paddle.to_tensor(list(invitation), "int64"))
    address, port, token = bytes(received.tolist()).decode().split()
    _member = Member(rank(), (address, int(port)), token, timeout)
    try:
        yield
    except RuntimeError:  # what Paddle makes of a collective that fails
        _member.report_failure()
        raise
    finally:
        _member.leave()
        _member = None
        if roll:
            roll.close()


def show_life(doing: str) -> None:
    """Show that long work goes on, and which, so that nobody takes this rank for lost."""
    if _member:
        _member.show_life(doing)


def _begin() -> None:
    # Paddle's gloo gives up when a rank comes 30 seconds late, and that cannot be set: so ranks wait before they enter it.
    if _member:
        _member.arrive(wait=paddle.get_device() == "cpu")


def all_gather(x: paddle.Tensor) -> paddle.Tensor:
    """Return the ranks' tensors [n, ...] one after the other, [world_size * n, ...]; not differentiable."""
    if world_size() == 1:
        return x
    _begin()
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, x.detach())
    return paddle.concat(parts)


def all_reduce_sum(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by its sum over the ranks, and return it; not differentiable."""
    if world_size() > 1:
        _begin()
        dist.all_reduce(x, op=dist.ReduceOp.SUM)
    return x


def all_reduce_max(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by its maximum over the ranks, and return it; not differentiable."""
    if world_size() > 1:
        _begin()
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def broadcast(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by rank 0's, and return it."""
    if world_size() > 1:
        _begin()
        dist.broadcast(x, src=0)
    return x
