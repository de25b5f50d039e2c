"""train.py with the backbone "Tiny" registered: python tiny_train.py --network Tiny ..., plainly or under Paddle's launcher."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arcface.command import run
from arcface.config import TrainConfig, parse
from arcface.system.startup import start_paddle


def main():
    config = parse(TrainConfig)
    start_paddle()
    import tiny_backbone  # noqa: F401  registers it

    from arcface.training.trainer import train

    train(config)


if __name__ == "__main__":
    run(main)
