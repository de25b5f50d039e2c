#!/usr/bin/env python3
"""Convert a dataset of training images between its layouts; the images' bytes, their order and labels stay the same.

    python datasets/convert.py --source MS1M_v2 --output ms1m/train.rec
    python datasets/convert.py --source ms1m/train.rec --output MS1M_folders --layout folder
    python datasets/convert.py --source MS1M_v2/some.txt --output MS1M_v2/relabelled.txt --relabel

--help says all. `arcface-convert` is the same command; arcface/data/convert.py has its logic.
"""

from hand_over import command_of

if __name__ == "__main__":
    command_of("convert")()
