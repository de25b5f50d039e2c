#!/usr/bin/env python3
"""Convert a dataset of training images between its layouts; the images' bytes, their order and labels stay the same.

    python datasets/convert.py --source MS1M_v2 --output ms1m/train.rec
    python datasets/convert.py --source ms1m/train.rec --output MS1M_folders --layout folder
    python datasets/convert.py --source MS1M_v2/some.txt --output MS1M_v2/relabelled.txt --relabel

--help says all. `arcface-convert` is the same command; arcface/data/convert.py has its logic.
"""

import sys

try:
    from arcface.convert import command
except ModuleNotFoundError as error:
    if error.name != "arcface":
        raise
    print("error: the package arcface is not installed; run: pip install -e .", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    command()
