"""Verify a trained backbone on InsightFace .bin sets.

    python valid.py --network MobileFaceNet_128 --checkpoint emore_arcface --data_dir MS1M_v2 --val_targets lfw
"""

from arcface.command_line import run
from arcface.config import ValidConfig, parse
from arcface.runtime.tuning import start_paddle


def main():
    config = parse(ValidConfig, description=__doc__.splitlines()[0])
    start_paddle()
    from arcface.training.validator import valid  # imports Paddle, which --help need not wait for

    valid(config)


if __name__ == "__main__":
    run(main)
