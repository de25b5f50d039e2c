"""train.py as one rank of some, on the CPU in the order of a GPU."""

import sys

from arcface.system.startup import start_paddle

start_paddle()

import train
from arcface.command import run
from arcface.training import data, trainer
from arcface.training.steps import Steps

data.on_cpu = data.on_gpu
trainer.Steps = lambda *parts, run_ahead: Steps(*parts, run_ahead=True)
sys.argv[0] = "train.py"
run(train.main)
