"""Ranks: who am I, how many are we, and the few collectives that everything is built from.

Only all_gather of equal shapes, all_reduce and broadcast are used: they are right on gloo (CPU) and NCCL (GPU) alike.
All of them are no-ops with one rank, so that the same code runs with and without `paddle.distributed.launch`.
"""

import os

import paddle
import paddle.distributed as dist


def rank() -> int:
    """This process's number, 0 .. world_size() - 1."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0))


def world_size() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", 1))


def start_ranks() -> None:
    """Join the other ranks, if there are any; on the device that was chosen before."""
    if world_size() > 1 and not dist.is_initialized():
        if paddle.get_device() == "cpu":  # a Paddle built for GPUs would take NCCL, and its GPU with it
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        dist.init_parallel_env()


def all_gather(x: paddle.Tensor) -> paddle.Tensor:
    """Return the ranks' tensors [n, ...] one after the other, [world_size * n, ...]; not differentiable."""
    if world_size() == 1:
        return x
    parts = []
    dist.all_gather(parts, x.detach())
    return paddle.concat(parts)


def all_reduce_sum(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by its sum over the ranks, and return it; not differentiable."""
    if world_size() > 1:
        dist.all_reduce(x, op=dist.ReduceOp.SUM)
    return x


def all_reduce_max(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by its maximum over the ranks, and return it; not differentiable."""
    if world_size() > 1:
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def broadcast(x: paddle.Tensor) -> paddle.Tensor:
    """Replace x in place by rank 0's, and return it."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x
