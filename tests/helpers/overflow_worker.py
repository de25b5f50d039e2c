"""train.py as one rank of some, in fp16 on the CPU; in some steps the last rank's embeddings become infinite.

First arguments: these steps, counted from 1 and divided by commas, and the order, "cpu" or "gpu". Three steps double the scale.
"""

import sys
from functools import partial

from arcface.system.startup import start_paddle

start_paddle()

import numpy as np

import train
from arcface.command import run
from arcface.distributed.process_group import rank, world_size
from arcface.head.partial_fc import PartialFC
from arcface.training import data, loss_scale, trainer
from arcface.training.state import TrainState
from arcface.training.steps import Steps

_, bad, order, *options = sys.argv
loss_scale.STEPS_TO_DOUBLE = 3
trainer.TrainState = partial(TrainState, loss_scale=16.0)
real = PartialFC.loss


def loss(self, embeddings, labels, step, *listed):
    spoilt = str(step + 1) in bad.split(",") and rank() == world_size() - 1
    return real(self, embeddings * np.inf if spoilt else embeddings, labels, step, *listed)


PartialFC.loss = loss
if order == "gpu":
    data.on_cpu = data.on_gpu
    trainer.Steps = lambda *parts, run_ahead: Steps(*parts, run_ahead=True)
sys.argv[:] = ["train.py", *options, "--precision=fp16", "--precision_emulation=1"]
run(train.main)
