#!/usr/bin/env python3
"""Merge datasets of training images, in whichever layouts, into one.

    python datasets/merge.py --sources MS1M_v2 mine --output both/train.rec --without MS1M_v2/lfw.bin
    python datasets/merge.py --sources MS1M_v2 mine --output both --mapping same_people.txt

--help says all. `arcface-merge` is the same command; arcface/data/merge.py has its logic.
"""

from hand_over import command_of

if __name__ == "__main__":
    command_of("merge")()
