"""Runs a tool of datasets/, which never gets the image of a certain name: python held.py NAME TOOL ARGUMENTS..."""

import importlib
import os
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "datasets")]

from arcface.command import run
from arcface.data.datasets import image_file

name, tool = sys.argv[1:3]
del sys.argv[1:3]
read_file = image_file.read_file


def read_or_wait(path: bytes) -> bytes:
    while os.fsdecode(path).endswith(f"/{name}"):
        time.sleep(1)
    return read_file(path)


image_file.read_file = read_or_wait
run(importlib.import_module(tool).main)
