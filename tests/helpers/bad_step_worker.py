"""train.py as one rank of some; on rank 1 the second step's embeddings become infinite."""

import sys

from arcface.system.startup import start_paddle

start_paddle()

import numpy as np

import train
from arcface.command import run
from arcface.distributed.process_group import rank
from arcface.head.partial_fc import PartialFC

real = PartialFC.loss
PartialFC.loss = lambda self, embeddings, labels, step, *listed: real(
    self, embeddings * np.inf if step == 1 and rank() == 1 else embeddings, labels, step, *listed
)
sys.argv[0] = "train.py"
run(train.main)
