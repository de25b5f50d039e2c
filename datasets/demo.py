#!/usr/bin/env python3
"""Draw a small dataset of cartoon faces, to see a training work on a laptop without any real data.

    python datasets/demo.py                       # 100 identities x 20 images and 600 pairs, in datasets/demo
    python datasets/demo.py --output /tmp/faces --identities 5000 --num_workers 8

--help says all. `arcface-demo` is the same command; arcface/data/synthetic.py has its logic.
"""

from pathlib import Path

from hand_over import command_of

if __name__ == "__main__":
    command_of("demo")(str(Path(__file__).resolve().with_name("demo")))
