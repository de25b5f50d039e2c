"""Train and verify face-recognition embeddings in PaddlePaddle. Importing this package imports no Paddle."""

import sys

__version__ = "0.1.0"

# Before anything that an older Python cannot parse or run.
if sys.version_info < (3, 10):  # noqa: UP036
    this = ".".join(map(str, sys.version_info[:2]))
    sys.stderr.write("error: Arcface-Paddle needs Python 3.10 to 3.13, and this is " + this + "; take another\n")
    sys.exit(2)
