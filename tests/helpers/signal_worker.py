"""train.py, of which a rank gets signals while it makes steps: python signal_worker.py RANK SIGUSR1@2,SIGKILL@4 OPTIONS...

A signal comes at the end of its step; one with a b, SIGKILL@4b, in the backward pass after it.
"""

import os
import signal
import sys

from arcface.system.startup import start_paddle

start_paddle()

import train
from arcface.command import run
from arcface.distributed.process_group import rank
from arcface.head.partial_fc import PartialFC
from arcface.training.model import Model

of_rank, plan = int(sys.argv.pop(1)), sys.argv.pop(1)
signals = {step: signal.Signals[name] for name, step in (part.split("@") for part in plan.split(","))}
real, real_loss, steps = Model.update, PartialFC.loss, 0


def send(moment: str) -> None:
    if rank() == of_rank and moment in signals:
        os.kill(os.getpid(), signals[moment])


def loss(self, embeddings, *others):
    embeddings.register_hook(lambda gradient: send(f"{steps}b"))
    return real_loss(self, embeddings, *others)


def update(self, *arguments):
    global steps
    real(self, *arguments)
    steps += 1
    send(str(steps))


Model.update, PartialFC.loss = update, loss
sys.argv[0] = "train.py"
run(train.main)
