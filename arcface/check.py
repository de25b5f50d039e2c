"""Check a dataset of training images: decode all of them, and compare their contents and labels.

    python datasets/check.py --source MS1M_v2
    python datasets/check.py --source ms1m/train.rec --report ms1m_report --repair ms1m_sound/train.rec --without_copies

Bad are images that cannot be read or decoded or are not 112x112; each is listed with its line, byte or path.
Black are images of which over half of the pixels are exactly 0, as after an alignment by wrong landmarks; they count as sound.
Copies are images with equal bytes. --report DIR resumes after an interruption, and contains

    bad.txt                lines 'index<TAB>where it is and what is wrong', indices from 0
    black.txt              lines 'index<TAB>where it is'
    copies.txt             lines 'index<TAB>label<TAB>index of the first such image<TAB>its label'
    images_a_person.png    how many identities have how many images

The exit code is 0 if nothing is wrong, 1 if something is (also if a copy was written that is sound), 2 for a wrong option.
"""

import sys

from arcface.command import run
from arcface.data.checks import CheckOptions, check
from arcface.options.command_line import parse


def main(arguments: list[str] | None = None) -> None:
    options = parse(CheckOptions, arguments, __doc__ or "")
    sys.exit(1 if check(options) else 0)


def command() -> None:
    """`arcface-check`, and datasets/check.py."""
    run(main)


if __name__ == "__main__":
    command()
