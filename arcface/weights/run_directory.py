"""What a directory of weights contains: the output of a training run, or weights that somebody published.

output/
    step_00000190/checkpoint.json    a checkpoint's manifest
    latest -> step_00000190          the current checkpoint
    best -> step_00000150            the one with the highest accuracy
    <network>.pdparams               the current backbone; training/checkpoint.py writes all of these
    <network>_ema.pdparams           the averaged one of a run with --ema, which is what training verifies

published/
    <network>.pdparams or <network>.safetensors
"""

import json
import os
from pathlib import Path

import numpy as np
import paddle

from arcface.backbones import create_backbone
from arcface.errors import UserError
from arcface.weights.state_dict import CONVERTED, SUFFIXES, check_format, load_backbone, read_state_dict

MANIFEST = "checkpoint.json"
LATEST, BEST = "latest", "best"


def find_backbone(directory: Path, network: str, averaged: bool = True) -> Path:
    """Return the file of a backbone's weights in a directory: <network>.pdparams before <network>.safetensors.

    Before both comes <network>_ema.pdparams, the weights that training verifies where it writes them, unless `averaged` is False.

    Raises UserError if neither exists, naming what the directory contains instead.
    """
    if os.path.isfile(directory):
        check_format(directory)
        raise UserError(f"{directory}: is a file; pass its directory with --checkpoint")
    files = [directory / f"{network}{suffix}" for suffix in SUFFIXES]
    for file in [directory / f"{network}_ema.pdparams"] * averaged + files:
        if os.path.exists(file):
            return file
    found = sorted(path.name for suffix in SUFFIXES for path in directory.glob(f"*{suffix}"))
    for other in sorted(path for suffix in CONVERTED for path in directory.glob(f"*{suffix}")) if not found else ():
        check_format(other)
    raise UserError(
        f"{directory}: looked for {files[0].name} and {files[1].name}, found {', '.join(found) or 'neither kind of file'};"
        " pass the directory with --checkpoint and its network with --network"
    )


def read_backbone(directory: Path, network: str) -> dict[str, np.ndarray]:
    """Return the state dict of a directory's trained backbone, not of the averaged one."""
    return read_state_dict(find_backbone(directory, network, averaged=False))


def trained_backbone(directory: Path, network: str, embedding_size: int) -> paddle.nn.Layer:
    """Return a backbone with the weights in a directory, on Paddle's present device.

    Raises UserError if the network is not registered, or its weights are missing, damaged or of other shapes.
    """
    backbone = create_backbone(network, embedding_size)
    file = find_backbone(directory, network)
    load_backbone(backbone, read_state_dict(file), str(file))
    return backbone


def step_of(directory: Path) -> int:
    """Return the training step of a directory's weights; 0 where no training run wrote them (published weights).

    Raises UserError if the manifest is damaged.
    """
    for manifest in (directory / LATEST / MANIFEST, directory / MANIFEST):
        if os.path.exists(manifest):
            try:
                return int(json.loads(manifest.read_bytes())["progress"]["step"])
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise UserError(f"{manifest}: damaged ({error!r}); restore it, or move the .pdparams elsewhere") from error
    return 0


def has_checkpoint(directory: str | Path) -> bool:
    """Whether an output directory contains a checkpoint of this toolkit."""
    return (Path(directory) / LATEST).exists()
