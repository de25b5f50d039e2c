"""Convert published weights into a state dict that valid.py reads, and a state dict from one format to the other.

    python -m arcface.weights insightface_y1/model-0000.params pretrained/MobileFaceNet_128.pdparams
    python -m arcface.weights emore_arcface/MobileFaceNet_128.pdparams shared/MobileFaceNet_128.safetensors

SOURCE is, by its ending, one of:

    .params    InsightFace's MobileFaceNet (model y1 of its model zoo), an MXNet 1.x file; MXNet is not needed. What y1
               does differently (input scale, eps of the batch norms, a bias before the last one) is folded into the
               weights, so that the embeddings stay what they were.
    .pth .pt   a PyTorch state dict of the same layers in the same order; PyTorch is needed. Nothing is folded: it must
               come from training on RGB images scaled by (x - 127.5) / 127.5, with batch norm eps 1e-5, PyTorch's
               default. No file says whether that is so; the accuracy that valid.py prints does.
    .pdparams .safetensors
               a state dict of ours; its names and values stay as they are, in float32.

DESTINATION is <directory>/<network>.pdparams or <directory>/<network>.safetensors, the names that valid.py looks for.
"""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arcface.command import run
from arcface.config import NetworkOptions
from arcface.errors import UserError
from arcface.io.files import atomic_write
from arcface.options.command_line import POSITIONAL, parse
from arcface.options.kinds import PathName, Size
from arcface.system.startup import start_paddle


def convert(source: Path, network: str, embedding_size: int) -> dict[str, np.ndarray]:
    """Return the weights of a file as the state dict of a backbone of ours: float32 arrays in the state dict's order.

    The head of this module says which files, and what is assumed of a PyTorch file.

    Raises:
        UserError: the file cannot be read, or its tensors are not those of this network: a name is missing or unknown,
            a shape differs by more than dimensions of length 1, a value is not finite as float32, a variance is not
            positive.
    """
    from arcface.backbones import create_backbone  # imports Paddle, which --help need not wait for
    from arcface.weights.fit import fitted
    from arcface.weights.insightface_y1 import read_y1
    from arcface.weights.state_dict import SUFFIXES, load_backbone, read_state_dict
    from arcface.weights.torch import read_torch

    backbone = create_backbone(network, embedding_size)
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    if source.suffix in SUFFIXES:
        load_backbone(backbone, read_state_dict(source), str(source))
        return fitted(source, {name: (name, tensor.numpy()) for name, tensor in backbone.state_dict().items()}, shapes)
    if source.suffix == ".params":
        return read_y1(source, network, shapes)
    if source.suffix in (".pth", ".pt"):
        return read_torch(source, network, shapes)
    raise UserError(
        f"{source}: weights are read from .params (MXNet), .pth and .pt (PyTorch), {' and '.join(SUFFIXES)} files;"
        " pass one of these"
    )


def write(state: dict[str, np.ndarray], destination: Path) -> None:
    """Write a state dict, whole or not at all, over what may be there; raises UserError if that is not possible.

    The ending of `destination`, .pdparams or .safetensors, is the format.
    """
    from arcface.weights.state_dict import PICKLE, SAFETENSORS, safetensors_bytes, state_dict_bytes

    content_of = {PICKLE: state_dict_bytes, SAFETENSORS: safetensors_bytes}[destination.suffix]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(destination) as file:
            file.write(content_of(state))
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror or error}); choose another place") from error


@dataclass(kw_only=True)
class ConvertOptions:
    """Weights to convert"""

    source: PathName = field(metadata=POSITIONAL)
    """File of weights, see above."""
    destination: PathName = field(metadata=POSITIONAL)
    """File to write: DIRECTORY/NETWORK.pdparams or .safetensors."""
    network: str = NetworkOptions.network
    """Backbone to convert to."""
    embedding_size: Size = NetworkOptions.embedding_size
    """Length of its embeddings."""
    overwrite: bool = False
    """Replace DESTINATION if it exists."""


def main(arguments: list[str] | None = None) -> None:
    options = parse(ConvertOptions, arguments, __doc__ or "")
    start_paddle()
    from arcface.weights.run_directory import find_backbone
    from arcface.weights.state_dict import SUFFIXES

    source, destination = Path(options.source), Path(options.destination)
    expected = [f"{options.network}{suffix}" for suffix in SUFFIXES]
    if destination.name not in expected:
        raise UserError(f"{destination}: valid.py would not find it; name it {destination.parent / expected[0]} or {expected[1]}")
    if os.path.lexists(destination) and not options.overwrite:
        raise UserError(f"{destination}: exists already; choose another directory, or replace it with --overwrite")
    state = convert(source, options.network, options.embedding_size)
    write(state, destination)
    values = sum(array.size for array in state.values())
    print(f"{destination}: {len(state)} tensors with {values} values, from {source}")
    if (first := find_backbone(destination.parent, options.network)) != destination:
        print(f"valid.py reads {first.name}, which is beside it; to verify this file, move it to another directory")
        return
    print(
        f"verify them: python valid.py --network {options.network} --embedding_size {options.embedding_size} "
        f"--checkpoint {shlex.quote(str(destination.parent))} --data_dir MS1M_v2 --val_targets lfw"
    )


def command() -> None:
    """`arcface-weights`, and `python -m arcface.weights`."""
    run(main)


if __name__ == "__main__":
    command()
