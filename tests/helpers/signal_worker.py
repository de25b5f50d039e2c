"""train.py, of which a rank gets signals while it makes steps: python signal_worker.py RANK SIGUSR1@2,SIGKILL@4 OPTIONS..."""

import os
import signal
import sys

from arcface.system.startup import start_paddle

start_paddle()

import train
from arcface.command import run
from arcface.distributed.process_group import rank
from arcface.training.model import Model

of_rank, plan = int(sys.argv.pop(1)), sys.argv.pop(1)
signals = {int(step): signal.Signals[name] for name, step in (part.split("@") for part in plan.split(","))}
real, steps = Model.update, 0


def update(self, lr):
    global steps
    real(self, lr)
    steps += 1
    if rank() == of_rank and steps in signals:
        os.kill(os.getpid(), signals[steps])


Model.update = update
sys.argv[0] = "train.py"
run(train.main)
