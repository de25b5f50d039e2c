#!/usr/bin/env python3
"""Draw a small dataset of cartoon faces, to see a training work on a laptop without any real data.

    python datasets/demo.py                       # 100 identities x 20 images and 600 pairs, in datasets/demo
    python datasets/demo.py --output /tmp/faces --identities 5000 --num_workers 8

--help says all. `arcface-demo` is the same command; arcface/data/synthetic.py has its logic.
"""

import sys
from pathlib import Path

try:
    from arcface.demo import command
except ModuleNotFoundError as error:
    if error.name != "arcface":
        raise
    print("error: the package arcface is not installed; run: pip install -e .", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    command(str(Path(__file__).resolve().with_name("demo")))
