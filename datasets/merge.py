#!/usr/bin/env python3
"""Merge datasets of training images, in whichever layouts, into one.

    python datasets/merge.py --sources MS1M_v2 mine --output both/train.rec --without MS1M_v2/lfw.bin
    python datasets/merge.py --sources MS1M_v2 mine --output both --mapping same_people.txt

--help says all. `arcface-merge` is the same command; arcface/data/merge.py has its logic.
"""

import sys

try:
    from arcface.merge import command
except ModuleNotFoundError as error:
    if error.name != "arcface":
        raise
    print("error: the package arcface is not installed; run: pip install -e .", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    command()
