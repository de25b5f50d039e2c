"""What tells a process to be Paddle's launcher: a library of Paddle's that it has mapped. Importing Paddle would take a second."""

HAS_PADDLE = """
import importlib.util, mmap, os, subprocess, sys
from pathlib import Path
library = open(next(Path(importlib.util.find_spec("paddle").origin).parent.rglob("libpaddle.so")), "rb")
mapped = mmap.mmap(library.fileno(), 4096, access=mmap.ACCESS_READ)
"""
