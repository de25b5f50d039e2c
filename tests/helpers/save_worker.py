"""Saves a checkpoint in <folder> as one of two ranks, then one for which rank 1 has no space; writes what it was told."""

import errno
import os
import sys
from pathlib import Path

from arcface.system.startup import start_paddle

start_paddle()

import numpy as np
import paddle

from arcface.distributed.process_group import rank, start_ranks
from arcface.errors import UserError
from arcface.head.shards import shard_of
from arcface.training.checkpoint import Arrays, save

CLASSES = 10

paddle.set_device("cpu")
start_ranks()
shard = shard_of(CLASSES, rank(), 2)
folder = Path(sys.argv[1])


def write(step: int) -> None:
    rows = (np.arange(CLASSES * 4, dtype=np.float32).reshape(CLASSES, 4) + np.float32(step))[shard.start : shard.stop]
    backbone = {"w": np.full([2], step, np.float32)}
    save(
        folder, "MobileFaceNet_128", Arrays(backbone, {"momentum": backbone}, rows, rows), shard, step, {"progress": {"step": step}}
    )


def full(_) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


write(1)
if rank() == 1:
    os.fsync = full
try:
    write(2)
except UserError as error:
    (folder / f"{rank()}.txt").write_text(str(error))
