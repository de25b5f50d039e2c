"""Train a face-recognition model.

    python train.py --config configs/demo_cpu.yaml                             one process, CPU or GPU
    python -m paddle.distributed.launch train.py --network MobileFaceNet_128   one process per GPU of this machine
    python -m paddle.distributed.launch --nproc_per_node 2 train.py ...        two processes, also on a CPU

The same where the package is installed, from any directory:

    arcface-train --config demo_cpu.yaml
    python -m paddle.distributed.launch --nproc_per_node 2 python -m arcface.train ...
"""

from arcface.command import run
from arcface.config import TrainConfig, parse
from arcface.system.startup import start_paddle


def main() -> None:
    config = parse(TrainConfig, description=(__doc__ or "").split("\n", 1)[0])
    start_paddle()
    from arcface.training.trainer import train  # imports Paddle, which --help and a wrong flag need not wait for

    train(config)


def command() -> None:
    """`arcface-train`, and train.py."""
    run(main)


if __name__ == "__main__":
    command()
