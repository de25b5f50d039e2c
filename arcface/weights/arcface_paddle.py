"""State dicts of other Paddle toolkits under our names: InsightFace's arcface_paddle and PLSC.

Their MobileFaceNet_128, and PLSC's IResNet, MobileFaceNet and FaceViT, have our names; PLSC adds those of its head. FresResNet,
the iResNet of arcface_paddle and of PLSC until 2022, has other names, each block twice, and one slope for all channels of a PReLU.
"""

import re

import numpy as np

from arcface.weights.fit import Shapes

_HEAD = "head."  # PLSC's class centres
_COPIES = "block_list."  # FresResNet's blocks by number
_LAYERS = {
    "conv._conv": "conv1",
    "conv._batch_norm": "bn1",
    "prelu": "prelu",
    "fc._batch_norm_1": "bn2",
    "fc.fc": "fc",
    "fc._batch_norm_2": "features",
}
_BLOCK = re.compile(r"res([2-5])(.)\.(.+)", re.ASCII)  # its stage, and its number as a letter from "a" on, also beyond "z"
_BLOCK_LAYERS = {
    "_batch_norm": "bn1",
    "conv0._conv": "conv1",
    "conv0._batch_norm": "bn2",
    "prelu": "prelu",
    "conv1._conv": "conv2",
    "conv1._batch_norm": "bn3",
    "short._conv": "downsample.0",
    "short._batch_norm": "downsample.1",
}


def in_our_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return FresResNet's arrays by our names, with a slope for each channel; those of other networks as they are."""
    if "conv._conv.weight" not in arrays:
        return arrays
    ours = {_our_name(str(name)): array for name, array in arrays.items() if not str(name).startswith(_COPIES)}
    for name, array in ours.items():
        norm = re.sub(r"prelu\._weight$", "bn2.bias" if name.startswith("layer") else "bn1.bias", name)
        if norm in ours and array.shape == (1,):
            ours[name] = np.broadcast_to(array, ours[norm].shape)
    return ours


def without_head(arrays: dict[str, np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the arrays but those of PLSC's head, which is no part of a backbone."""
    return {name: array for name, array in arrays.items() if name in shapes or not str(name).startswith(_HEAD)}


def _our_name(theirs: str) -> str:
    layer, _, parameter = theirs.rpartition(".")
    if layer in _LAYERS:
        return f"{_LAYERS[layer]}.{parameter}"
    block = _BLOCK.fullmatch(layer)
    if block and block[3] in _BLOCK_LAYERS:
        return f"layer{int(block[1]) - 1}.{ord(block[2]) - ord('a')}.{_BLOCK_LAYERS[block[3]]}.{parameter}"
    return theirs
