#!/usr/bin/env python3
"""Check a dataset of training images: decode all of them, and compare their contents and labels.

    python datasets/check.py --source MS1M_v2
    python datasets/check.py --source ms1m/train.rec --report ms1m_report --repair ms1m_sound/train.rec --without_copies

--help says all. `arcface-check` is the same command; arcface/data/checks.py has its logic.
"""

from hand_over import command_of

if __name__ == "__main__":
    command_of("check")()
