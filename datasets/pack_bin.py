#!/usr/bin/env python3
"""Pack aligned face crops and a list of pairs into one verification file, InsightFace's .bin.

    python datasets/pack_bin.py --images lfw_112x112 --pairs pairs.txt --output MS1M_v2/lfw.bin

--help says all. `arcface-pack-bin` is the same command; arcface/verification/pack_bin.py has its logic.
"""

from hand_over import command_of

if __name__ == "__main__":
    command_of("pack_bin")()
