"""Verifies <folder>/tiny.bin as one rank of some; writes mean norm, accuracy and deviation to <folder>/<rank>.npy."""

import sys
from pathlib import Path

from arcface.system.startup import start_paddle

start_paddle()

import fake_embedding
import numpy as np
import paddle

from arcface.data.bin_file import read_bin
from arcface.distributed.process_group import rank, start_ranks
from arcface.verification.evaluator import verify

paddle.set_device("cpu")
start_ranks()
result = verify(fake_embedding.embed, read_bin(Path(sys.argv[1]) / "tiny.bin"), 4)
np.save(Path(sys.argv[1]) / f"{rank()}.npy", [result.xnorm, result.accuracy.mean, result.accuracy.std])
