"""train.py as one rank of some, with "Tiny", where rank 0's look at the images "fails" or "takes long".

python scan_worker.py WHAT OPTIONS...
"""

import sys
import time

from arcface.system.startup import start_paddle

start_paddle()

import tiny_backbone  # noqa: F401  registers it

import train
from arcface.command import run
from arcface.data.datasets.label_list import LabelFile
from arcface.errors import UserError

GLOO_GIVES_UP = 30  # seconds


def scan(self, number: int) -> None:
    if what == "fails":
        raise UserError("image 3: cannot be decoded")
    time.sleep(GLOO_GIVES_UP + 5)


what = sys.argv.pop(1)
LabelFile.scan = scan
run(train.main)
