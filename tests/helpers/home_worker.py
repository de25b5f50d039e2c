"""Does what libraries need a home for, and prints the home that they had: exports a network, imports VisualDL and matplotlib."""

import os
import sys
from pathlib import Path

from arcface.system.startup import start_paddle

start_paddle()

import matplotlib.font_manager  # noqa: F401
import tiny_backbone
import visualdl  # noqa: F401

from arcface.inference.export import export
from arcface.system.home import why_not_writable

export(tiny_backbone.Tiny(8), Path(sys.argv[1]), "paddle")
print(os.environ["HOME"], why_not_writable(), sep="\n")
