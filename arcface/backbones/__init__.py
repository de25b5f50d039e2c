"""Backbones: networks that map images [N, 3, 112, 112] to embeddings [N, embedding_size], registered by name.

To add one, write a module with a class or function of (embedding_size, batch_norm) and register it in BACKBONES, the smallest of
a module first; the tests in tests/unit/backbones then run on it as on every backbone. Its attribute `stages` groups its layers for
--freeze (stages.py).
"""

import difflib
from collections.abc import Callable

from paddle import nn

from arcface.backbones.batch_norm import batch_norm_layer
from arcface.backbones.iresnet import iresnet18, iresnet34, iresnet50, iresnet100, iresnet200
from arcface.backbones.mbf import mbf, mbf_large
from arcface.backbones.mobilefacenet import MobileFaceNet
from arcface.backbones.vit import vit_b, vit_s, vit_t
from arcface.errors import UserError

BACKBONES: dict[str, Callable[..., nn.Layer]] = {
    "MobileFaceNet_128": MobileFaceNet,
    "iresnet18": iresnet18,
    "iresnet34": iresnet34,
    "iresnet50": iresnet50,
    "iresnet100": iresnet100,
    "iresnet200": iresnet200,
    "mbf": mbf,
    "mbf_large": mbf_large,
    "vit_t": vit_t,
    "vit_s": vit_s,
    "vit_b": vit_b,
}
ALIASES = {f"r{depth}": f"iresnet{depth}" for depth in (18, 34, 50, 100, 200)}  # arcface_torch's names


def create_backbone(name: str, embedding_size: int, batch_norm: str = "local") -> nn.Layer:
    """Return a new backbone with random weights; batch_norm is "local", "sync" or "frozen".

    Raises UserError for a name that is not registered.
    """
    name = ALIASES.get(name, name)
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0)[0]
        raise UserError(f"--network {name}: no such backbone; did you mean {nearest}? Available: {', '.join(BACKBONES)}")
    return BACKBONES[name](embedding_size=embedding_size, batch_norm=batch_norm_layer(batch_norm))
