"""Compare the faces of two images: are they of one identity?

    python -m arcface.compare anna_1.jpg anna_2.jpg --checkpoint emore_arcface --report report --far 1e-3
    python -m arcface.compare photo_1.jpg photo_2.jpg --checkpoint emore_arcface --threshold 0.3 --detector yunet.onnx

prints the cosine similarity of their embeddings, plain and mirrored added as in verification, and on a second line the decision:

    similarity 0.7312
    same: at or above the threshold 0.2846 (FAR 0.001 on lfw)

Images are 112x112 crops, aligned as the training images are; with --detector they are photos, whose faces are found and aligned.
The threshold is --threshold, or from the report that valid.py --report wrote: the one at the false accept rate --far.

The exit code is 0 for one identity, 1 for two, and 2 for an error.
"""

import sys

from arcface.command import run
from arcface.config import CompareConfig, parse
from arcface.system.startup import start_paddle


def main() -> None:
    config = parse(CompareConfig, description=__doc__ or "")
    start_paddle()
    from arcface.verification.compare import compare  # imports Paddle, which --help need not wait for

    if not compare(config):
        sys.exit(1)


def command() -> None:
    """`arcface-compare`."""
    run(main)


if __name__ == "__main__":
    command()
