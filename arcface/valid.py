"""Verify a trained backbone on .bin sets, folders and lists of pairs, IJB-B and IJB-C, and TinyFace.

    python valid.py --network MobileFaceNet_128 --checkpoint emore_arcface --data_dir MS1M_v2 --val_targets lfw

The same where the package is installed, from any directory: `arcface-valid`, and with several processes

    python -m paddle.distributed.launch --nproc_per_node 2 python -m arcface.valid ...
"""

from arcface.command import run
from arcface.config import ValidConfig, parse
from arcface.system.startup import start_paddle


def main() -> None:
    config = parse(ValidConfig, description=(__doc__ or "").split("\n", 1)[0])
    start_paddle()
    from arcface.verification.checkpoint import verify_checkpoint  # imports Paddle, which --help need not wait for

    verify_checkpoint(config)


def command() -> None:
    """`arcface-valid`, and valid.py."""
    run(main)


if __name__ == "__main__":
    command()
