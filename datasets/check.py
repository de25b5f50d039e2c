#!/usr/bin/env python3
"""Check a dataset of training images: decode all of them, and compare their contents and labels.

    python datasets/check.py --source MS1M_v2
    python datasets/check.py --source ms1m/train.rec --report ms1m_report --repair ms1m_sound/train.rec --without_copies

--help says all. `arcface-check` is the same command; arcface/data/checks.py has its logic.
"""

import sys

try:
    from arcface.check import command
except ModuleNotFoundError as error:
    if error.name != "arcface":
        raise
    print("error: the package arcface is not installed; run: pip install -e .", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    command()
