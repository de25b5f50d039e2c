"""What must be the same for all ranks, which may be on several machines: called by every rank, before anything is trained."""

import hashlib
import os
import platform
import secrets
import time
from pathlib import Path

import numpy as np
import paddle

from arcface.data.datasets.base import Dataset
from arcface.distributed.process_group import all_gather, broadcast, rank, world_size
from arcface.distributed.watchdog import in_words
from arcface.errors import UserError

SECONDS_TO_APPEAR = 5  # that a file system between machines has to show a file to the others


def check_same_data(source: Dataset, data_dir: str) -> None:
    """Raise UserError on every rank if a rank's labels are not those of rank 0."""
    if world_size() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(source.labels.tobytes()).digest(), np.uint32)
    mine = [len(source), source.num_classes, *digest.tolist()]
    all_ranks = all_gather(paddle.to_tensor([mine], "int64")).tolist()
    if others := [other for other, found in enumerate(all_ranks) if found != all_ranks[0]]:
        first, other = all_ranks[0], all_ranks[others[0]]
        kind = "other labels" if first[:2] == other[:2] else f"{other[0]} images of {other[1]} people"
        raise UserError(
            f"--data_dir {data_dir}: rank 0 finds {first[0]} images of {first[1]} people, {in_words(others)} {kind}:"
            " copy the same data set to every machine, or use one that all of them share"
        )


def check_shared(output: Path) -> None:
    """Raise UserError on every rank if a rank does not see what rank 0 writes to `output`, a directory that rank 0 has made."""
    if world_size() == 1:
        return
    token = broadcast(paddle.to_tensor([secrets.randbits(62)], "int64")).item()
    file = output / f".seen_by_all_ranks_{token:x}"
    try:
        if rank() == 0:
            _write(file, output)
        broadcast(paddle.ones([1])).item()  # from here on, the file is there
        ends = time.monotonic() + SECONDS_TO_APPEAR
        while not (seen := os.path.exists(file)) and time.monotonic() < ends:
            time.sleep(0.1)
        all_ranks = all_gather(paddle.to_tensor([int(seen)], "int64")).tolist()
    finally:
        if rank() == 0:
            file.unlink(missing_ok=True)
    if blind := [other for other, saw in enumerate(all_ranks) if not saw]:
        raise UserError(
            f"--output {output}: {in_words(blind)} cannot see what rank 0 writes there (this is rank {rank()}, on"
            f" {platform.node()}): take a directory that all machines share, by its absolute path"
        )


def _write(file: Path, output: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); choose another directory") from error
