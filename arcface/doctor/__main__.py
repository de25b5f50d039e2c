"""Check this machine and a training command's data and directories, on one screen; nothing is changed or left behind.

    python -m arcface.doctor --config configs/demo_cpu.yaml            the options are those of train.py
    python -m paddle.distributed.launch python -m arcface.doctor ...   checks the launcher's ranks

Lines with an arrow, ->, say what is wrong and what to do. The exit code is 0 without such lines, 1 with some, and 2 for a
wrong option. Under a launcher it is 0 instead of 1, which the launcher would treat as a crash and print everything again.
"""

import os
import sys

from arcface.command import run
from arcface.config import TrainConfig, parse
from arcface.system.startup import start_paddle


def main():
    config = parse(TrainConfig, description=" ".join(__doc__.split("\n\n")[::2]))
    start_paddle()
    from arcface.doctor.examine import examine  # imports Paddle, too slow for --help and wrong flags

    findings = examine(config)
    sys.exit(1 if findings and "PADDLE_LOCAL_SIZE" not in os.environ else 0)


def command() -> None:
    """`arcface-doctor`, and `python -m arcface.doctor`."""
    run(main)


if __name__ == "__main__":
    command()
