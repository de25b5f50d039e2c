"""Convert published weights into a state dict that valid.py reads, and a state dict from one format to the other.

    python -m arcface.weights ms1mv3_arcface_r50/backbone.pth pretrained/iresnet50.pdparams
    python -m arcface.weights buffalo_l/w600k_r50.onnx pretrained/
    python -m arcface.weights insightface_y1/model-0000.params pretrained/MobileFaceNet_128.pdparams
    python -m arcface.weights emore_arcface/MobileFaceNet_128.pdparams shared/MobileFaceNet_128.safetensors

SOURCE is, by its ending, one of:

    .pth .pt   a PyTorch state dict, or a checkpoint with one, such as arcface_torch's; PyTorch is not needed. Layers have
               arcface_torch's names, or are the same in the same order. Nothing is folded: it must come from training on RGB
               images scaled by (x - 127.5) / 127.5, with our batch norm eps. No file says whether that is so; the accuracy
               that valid.py prints does.
    .onnx      InsightFace's recognisers, iresnet and mbf as PyTorch exports them; needs onnx. A batch norm that is folded into
               the layer before it leaves its bias; fine-tune such weights with --batch_norm frozen.
    .pdparams .safetensors
               a state dict of ours, whose names stay as they are, in float32; or of arcface_paddle or PLSC.
    .params    InsightFace's MobileFaceNet (model y1 of its model zoo), an MXNet 1.x file; MXNet is not needed. What y1
               does differently (input scale, eps of the batch norms, a bias before the last one) is folded into the
               weights, so that the embeddings stay what they were.

DESTINATION is <directory>/<network>.pdparams or <directory>/<network>.safetensors, the names that valid.py looks for, or a
directory, existing or with a / at its end; SOURCE then says which network it is.
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


def convert(source: Path, network: str | None, embedding_size: int | None) -> dict[str, np.ndarray]:
    """Return the weights of a file as the state dict of a backbone of ours: float32 arrays in the state dict's order.

    The head of this module says which files, and what is assumed of them. Without a network or size, the file says which.

    Raises:
        UserError: the file cannot be read, or its tensors are not those of this network: a name is missing or unknown,
            a shape differs by more than dimensions of length 1, a value is not finite as float32, a variance is not
            positive.
    """
    from arcface.weights.published import as_backbone, read_published  # imports Paddle, which --help need not wait for

    return as_backbone(read_published(source), network, embedding_size)[2]


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
    """File to write: DIRECTORY/NETWORK.pdparams or .safetensors; or a directory."""
    network: str | None = None
    """Backbone to convert to; when not given, the one in DESTINATION's name, or the one that the file fits."""
    embedding_size: Size | None = None
    """Length of its embeddings; when not given, that in the file."""
    overwrite: bool = False
    """Replace DESTINATION if it exists."""


def main(arguments: list[str] | None = None) -> None:
    options = parse(ConvertOptions, arguments, __doc__ or "")
    start_paddle()
    from arcface.backbones import ALIASES, BACKBONES
    from arcface.weights.published import as_backbone, read_published
    from arcface.weights.run_directory import find_backbone
    from arcface.weights.state_dict import PICKLE, SUFFIXES

    source, destination = Path(options.source), Path(options.destination)
    is_directory = options.destination.endswith("/") or destination.is_dir()
    network = options.network
    if not is_directory:
        named = destination.stem if destination.stem in (*BACKBONES, *ALIASES) else NetworkOptions.network
        network = network or named
        _check_destination(destination, [f"{network}{suffix}" for suffix in SUFFIXES], options.overwrite)
    network, embedding_size, state = as_backbone(read_published(source), network, options.embedding_size)
    if is_directory:
        destination = destination / f"{network}{PICKLE}"
        _check_destination(destination, [destination.name], options.overwrite)
    write(state, destination)
    values = sum(array.size for array in state.values())
    print(f"{destination}: {len(state)} tensors with {values} values, from {source}")
    if (first := find_backbone(destination.parent, network)) != destination:
        print(f"valid.py reads {first.name}, which is beside it; to verify this file, move it to another directory")
        return
    print(
        f"verify them: python valid.py --network {network} --embedding_size {embedding_size} "
        f"--checkpoint {shlex.quote(str(destination.parent))} --data_dir MS1M_v2 --val_targets lfw"
    )


def _check_destination(destination: Path, expected: list[str], overwrite: bool) -> None:
    """Raise UserError for a name that valid.py does not look for, and for a file that exists."""
    if destination.name not in expected:
        raise UserError(f"{destination}: valid.py would not find it; name it {destination.parent / expected[0]} or {expected[-1]}")
    if os.path.lexists(destination) and not overwrite:
        raise UserError(f"{destination}: exists already; choose another directory, or replace it with --overwrite")


def command() -> None:
    """`arcface-weights`, and `python -m arcface.weights`."""
    run(main)


if __name__ == "__main__":
    command()
