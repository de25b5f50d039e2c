"""Train and verify face-recognition embeddings in PaddlePaddle. Importing this package imports no Paddle.

What programs of one's own use is exported here by name, and imported when it is first used; docs/api.md describes it.
"""

import sys

__version__ = "0.1.0"

# Before anything that an older Python cannot parse or run.
if sys.version_info < (3, 10):  # noqa: UP036
    this = ".".join(map(str, sys.version_info[:2]))
    sys.stderr.write("error: Arcface-Paddle needs Python 3.10 to 3.13, and this is " + this + "; use another\n")
    sys.exit(2)

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arcface.command import run
    from arcface.data.bin_file import read_bin
    from arcface.distributed.process_group import start_ranks
    from arcface.errors import UserError
    from arcface.head.margins import Margin
    from arcface.head.partial_fc import PartialFC
    from arcface.inference.embed import cosine
    from arcface.inference.embedder import Embedder, open_embedder
    from arcface.io.images import read_image
    from arcface.verification.evaluator import verify

# The module of each name.
WITHOUT_PADDLE = {
    "UserError": "arcface.errors",
    "cosine": "arcface.inference.embed",
    "read_bin": "arcface.data.bin_file",
    "read_image": "arcface.io.images",
    "run": "arcface.command",
}
WITH_PADDLE = {
    "Embedder": "arcface.inference.embedder",
    "Margin": "arcface.head.margins",
    "PartialFC": "arcface.head.partial_fc",
    "open_embedder": "arcface.inference.embedder",
    "start_ranks": "arcface.distributed.process_group",
    "verify": "arcface.verification.evaluator",
}
__all__ = [
    "Embedder",
    "Margin",
    "PartialFC",
    "UserError",
    "cosine",
    "open_embedder",
    "read_bin",
    "read_image",
    "run",
    "start_ranks",
    "verify",
]


def __getattr__(name):
    if name in WITH_PADDLE:
        import_module("arcface.system.startup").start_paddle()  # before the name's module imports Paddle
    elif name not in WITHOUT_PADDLE:
        raise AttributeError("module 'arcface' has no attribute " + repr(name))
    value = getattr(import_module(WITH_PADDLE.get(name) or WITHOUT_PADDLE[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
