"""Self-check of the ranks: every collective that training uses, run by separate processes in bounded time.

A collective that waits for a lost rank cannot be interrupted from within its process; so another process waits for the result.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import paddle
import paddle.distributed as dist

from arcface.distributed.process_group import all_gather, all_reduce_max, all_reduce_sum, broadcast, rank, start_ranks, world_size
from arcface.errors import UserError
from arcface.system.device import choose_device
from arcface.system.processes import child_environment, die_with_parent, without_gpus

LARGE = 2**20  # float32 values, 4 MiB
REPEATS = 10

_RANK = """
import sys
from arcface.system.startup import start_paddle
start_paddle()
from arcface.distributed.self_check import take_part
take_part(*sys.argv[1:])
"""


class RoundTrip(NamedTuple):
    """Result of a self-check, as rank 0 found it.

    Attributes:
        ranks: the world size.
        backend: "gloo", "nccl" or "none" with one rank.
        device: what rank 0 computed on.
        wrong: names of the collectives that gave wrong values on any rank.
        small, large: median seconds of ten all_reduce calls of 4 bytes and of 4 MiB.
    """

    ranks: int
    backend: str
    device: str
    wrong: list[str]
    small: float
    large: float


def round_trip(device: str, ranks: int | None, seconds: float) -> RoundTrip | None:
    """Run the self-check and return its result, within `seconds`.

    Under `paddle.distributed.launch` each rank calls this and starts a process that takes part in its place; only rank 0 gets a
    result. Otherwise it launches `ranks` processes, or one for each GPU if that is None. `device` is "auto", "cpu" or "gpu". Raises
    UserError if the ranks fail or give no answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="arcface_ranks_") as folder:
        result, output = Path(folder) / "result.json", Path(folder) / "output"
        command = [sys.executable, "-c", _RANK, str(result), device]
        environment = child_environment()
        if "PADDLE_LOCAL_SIZE" not in os.environ:
            number = ["--nproc_per_node", str(ranks)] if ranks else []
            command = [sys.executable, "-m", "paddle.distributed.launch", *number, "--log_dir", folder, *command]
            environment.pop("OMP_NUM_THREADS", None)  # this process set it for itself
            if device == "cpu" and ranks:
                environment |= without_gpus(ranks)
        with output.open("wb") as log:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    timeout=seconds,
                    preexec_fn=partial(die_with_parent, os.getpid()),
                )
            except subprocess.TimeoutExpired as error:
                raise UserError(
                    f"the ranks gave no answer within {seconds:g} s; check that all of them run and that no firewall blocks"
                    " their ports, and on GPUs what NCCL_DEBUG=INFO prints"
                ) from error
        if done.returncode:
            raise UserError(f"the ranks failed: {_last_words(Path(folder))}")
        return RoundTrip(**json.loads(result.read_text())) if result.exists() else None


def take_part(result: str, device: str) -> None:
    """Run the self-check as one rank; rank 0 writes the result to the file `result`, as JSON."""
    device = choose_device(device)
    start_ranks()
    backend = dist.get_backend().lower() if world_size() > 1 else "none"
    found = RoundTrip(world_size(), backend, device, wrong_collectives(), *map(_all_reduce_seconds, (1, LARGE)))
    if rank() == 0:
        Path(result).write_text(json.dumps(found._asdict()))


def wrong_collectives() -> list[str]:
    """Return the names of the collectives that give wrong values on any rank; every rank must call it."""
    ranks = world_size()
    first = paddle.arange(8, dtype="float32")
    mine = first + rank()  # sums are whole numbers, which float32 holds exactly
    results = {
        "all_reduce sum": (all_reduce_sum(mine.clone()), first * ranks + ranks * (ranks - 1) / 2),
        "all_reduce max": (all_reduce_max(mine.clone()), first + (ranks - 1)),
        "all_gather": (all_gather(mine), paddle.concat([first + other for other in range(ranks)])),
        "broadcast": (broadcast(mine.clone()), first),
    }
    here = [not bool((result == expected).all()) for result, expected in results.values()]
    anywhere = all_reduce_max(paddle.to_tensor(here, "float32")).tolist()
    return [name for name, *wrong in zip(results, here, anywhere, strict=True) if any(wrong)]


def _all_reduce_seconds(size: int) -> float:
    x, times = paddle.zeros([size]), []
    for _ in range(REPEATS):
        started = time.perf_counter()
        all_reduce_sum(x)[0].item()  # reading an element waits for the sum, on a GPU too
        times.append(time.perf_counter() - started)
    return sorted(times)[REPEATS // 2]


def _last_words(folder: Path) -> str:
    """Return the most telling line of the ranks' logs."""
    logs = [*sorted(folder.glob("workerlog.*")), folder / "output"]
    lines = [line.strip() for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["they printed nothing"])[-1]
