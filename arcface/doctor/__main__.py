"""Examine this machine and a training command's data and directories, on one screen; nothing is changed or left behind.

    python -m arcface.doctor --config configs/demo_cpu.yaml            the options are those of train.py
    python -m paddle.distributed.launch python -m arcface.doctor ...   the launcher's ranks talk to one another

Lines with an arrow, ->, say what is wrong and what to do. The exit code is 0 if there are none, 1 if there are, 2 for a
wrong option. Under a launcher, which would take 1 for a crash and print everything again, it is 0 for 1.
"""

import os
import sys

from arcface.command import run
from arcface.config import TrainConfig, parse
from arcface.system.startup import start_paddle


def main():
    config = parse(TrainConfig, description=" ".join(__doc__.split("\n\n")[::2]))
    start_paddle()
    from arcface.doctor.examine import examine  # imports Paddle, which --help and a wrong flag need not wait for

    findings = examine(config)
    sys.exit(1 if findings and "PADDLE_LOCAL_SIZE" not in os.environ else 0)


def command() -> None:
    """`arcface-doctor`, and `python -m arcface.doctor`."""
    run(main)


if __name__ == "__main__":
    command()
