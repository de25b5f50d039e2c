"""Opens an engine again and again: python leak_worker.py ENGINE FOLDER; prints the files left there, and the memory after each.

In a process of its own, whose allocator has no gaps that other work has left.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from arcface.system.startup import start_paddle

start_paddle()

import numpy as np

from arcface.backbones import create_backbone
from arcface.inference import engines

TIMES, NETWORK, SIZE = 12, "MobileFaceNet_128", 64

name, tempfile.tempdir = sys.argv[1:]
backbone = create_backbone(NETWORK, SIZE)
images = np.random.default_rng(4).integers(0, 256, (4, 3, 112, 112), np.uint8)

# The export, which is a process of its own, is made once: this is about what the engines keep.
exports: dict[str, tuple[dict[str, bytes], str]] = {}
real = engines.export_in_child


def once(weights: Path, network: str, embedding_size: int, folder: Path, format: str) -> Path:
    if format not in exports:
        model = real(weights, network, embedding_size, folder, format)
        exports[format] = {path.name: path.read_bytes() for path in folder.iterdir()}, model.name
    contents, model_name = exports[format]
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    return folder / model_name


engines.export_in_child = once
sizes = []
for _ in range(TIMES):
    with engines.open_engine(name, backbone, NETWORK, SIZE) as embed:
        embed(images)
    sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
print(json.dumps([os.listdir(tempfile.tempdir), sizes]))
