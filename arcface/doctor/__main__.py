"""Examine this machine and a training command's data and directories, on one screen; it changes nothing and leaves nothing behind.

    python -m arcface.doctor --config configs/demo_cpu.yaml            the options are those of train.py
    python -m paddle.distributed.launch python -m arcface.doctor ...   checks the launcher's ranks

Lines with an arrow, ->, say what is wrong and what to do. The exit code is 0 without such findings, 1 with findings, 2 for a wrong
option. Under a launcher it is 0 even with findings: a launcher treats 1 as a crash and prints everything again.
"""

import os
import sys

from arcface.command import run
from arcface.config import TrainConfig, parse
from arcface.system.startup import start_paddle


def main() -> None:
    config = parse(TrainConfig, description=" ".join((__doc__ or "").split("\n\n")[::2]))
    start_paddle()
    from arcface.doctor.examine import examine  # imports Paddle, which --help and a wrong option need not wait for

    findings = examine(config)
    sys.exit(1 if findings and "PADDLE_LOCAL_SIZE" not in os.environ else 0)


def command() -> None:
    """`arcface-doctor`, and `python -m arcface.doctor`."""
    run(main)


if __name__ == "__main__":
    command()
