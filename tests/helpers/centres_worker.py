"""Makes a head of 100,000 classes; prints by how many times the size of its centres the peak of memory has grown."""

from pathlib import Path

from arcface.system.startup import start_paddle

start_paddle()

import paddle

from arcface.head.partial_fc import PartialFC

CLASSES, SIZE = 100_000, 128


def peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


paddle.set_device("cpu")
PartialFC(10_000, SIZE)  # what a first one needs for ever
before = peak()
head = PartialFC(CLASSES, SIZE)
print((peak() - before) / (CLASSES * SIZE * 4))
