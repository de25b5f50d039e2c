"""Convert published weights into a state dict that valid.py reads, and a state dict from one format to the other.

    python -m arcface.weights.convert insightface_y1/model-0000.params pretrained/MobileFaceNet_128.pdparams
    python -m arcface.weights.convert emore_arcface/MobileFaceNet_128.pdparams shared/MobileFaceNet_128.safetensors

SOURCE is, by its ending, one of:

    .params    InsightFace's MobileFaceNet (model y1 of its model zoo), an MXNet 1.x file; MXNet is not needed. What y1
               does differently (input scale, eps of the batch norms, a bias before the last one) is folded into the
               weights, so that the embeddings stay what they were.
    .pth .pt   a PyTorch state dict of the same layers in the same order; PyTorch is needed. Nothing is folded: it must
               be of a training on RGB images scaled by (x - 127.5) / 127.5, with batch norm eps 1e-5, as PyTorch's
               is by default. No file says whether that is so; the accuracy that valid.py prints does.
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
from arcface.weights.mxnet import read_params

# y1, after its model-symbol.json: the layers around the blocks, and the blocks in the order of ours.
Y1_LAYERS = {"conv1": "conv_1", "dw_conv1": "conv_2_dw", "conv2": "conv_6sep", "linear7": "conv_6dw7_7"}
Y1_BLOCKS = [
    "dconv_23",
    *(f"res_3_block{number}" for number in range(4)),
    "dconv_34",
    *(f"res_4_block{number}" for number in range(6)),
    "dconv_45",
    *(f"res_5_block{number}" for number in range(2)),
]
Y1_INPUT_SCALE = 0.0078125  # times (x - 127.5); ours is 1 / 127.5
Y1_EPSILON, Y1_LAST_EPSILON = 1e-3, 2e-5  # of the batch norms, and of the last one, whose gamma is fixed at 1
Y1_PARAMETERS = {"bias": "arg:{}_beta", "_mean": "aux:{}_moving_mean", "_variance": "aux:{}_moving_var", "_weight": "arg:{}_gamma"}
TORCH_PARAMETERS = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight"}

Shapes = dict[str, tuple[int, ...]]


def convert(source: Path, network: str, embedding_size: int) -> dict[str, np.ndarray]:
    """Return the weights of a file as the state dict of a backbone of ours: float32 arrays in the state dict's order.

    What the file kinds are, and what is assumed of a PyTorch file, is said at the head of this module.

    Raises:
        UserError: the file cannot be read, or its tensors are not those of this network: a name is missing or unknown,
            a shape differs by more than dimensions of length 1, a value is not finite as float32, a variance is not
            positive.
    """
    from arcface.backbones import create_backbone  # imports Paddle, which --help need not wait for
    from arcface.weights.state_dict import SUFFIXES, load_backbone, read_state_dict

    backbone = create_backbone(network, embedding_size)
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    if source.suffix in SUFFIXES:
        load_backbone(backbone, read_state_dict(source), str(source))
        return _fitted(source, {name: (name, tensor.numpy()) for name, tensor in backbone.state_dict().items()}, shapes)
    read = {".params": _from_y1, ".pth": _from_torch, ".pt": _from_torch}.get(source.suffix)
    if read is None:
        raise UserError(
            f"{source}: weights are read from .params (MXNet), .pth and .pt (PyTorch), {' and '.join(SUFFIXES)} files;"
            " give one of these"
        )
    return read(source, network, shapes)


def _from_y1(source: Path, network: str, shapes: Shapes) -> dict[str, np.ndarray]:
    from arcface.backbones.batch_norm import EPSILON

    names = _y1_names(network, shapes) | {"linear1.conv.bias": "arg:pre_fc1_bias"}
    params = read_params(source)
    for kind, some in (("missing", names.values() - params.keys()), ("unknown", params.keys() - names.values())):
        if some:
            raise UserError(
                f"{source}: not InsightFace's MobileFaceNet y1: {len(some)} names {kind}, such as {min(some)}; fetch that model"
            )
    shapes = shapes | {"linear1.conv.bias": shapes["linear1.bn.bias"]}
    state = _fitted(source, {ours: (theirs, params[theirs]) for ours, theirs in names.items()}, shapes)
    # Exact but for rounding: conv(s x) = (s conv)(x); a batch norm sees only variance + eps and input - mean.
    state["conv1.conv.weight"] *= np.float32(Y1_INPUT_SCALE * 127.5)
    for name in state:
        if name.endswith("._variance"):
            state[name] += np.float32((Y1_LAST_EPSILON if name == "linear1.bn._variance" else Y1_EPSILON) - EPSILON)
    state["linear1.bn.weight"][:] = 1
    state["linear1.bn._mean"] -= state.pop("linear1.conv.bias")
    return state


def _y1_names(network: str, shapes: Shapes) -> dict[str, str]:
    """Return y1's name of each of our parameters: 'arg:conv_1_batchnorm_beta' for 'conv1.bn.bias'."""
    layers = {"linear1.conv": "fc1", "linear1.bn": "fc1"}
    for ours, theirs in Y1_LAYERS.items():
        layers |= {f"{ours}.conv": f"{theirs}_conv2d", f"{ours}.bn": f"{theirs}_batchnorm", f"{ours}.prelu": f"{theirs}_relu"}
    for number, block in enumerate(Y1_BLOCKS):
        parts = [f"{block}_conv_{part}_{kind}" for part in ("sep", "dw", "proj") for kind in ("conv2d", "batchnorm", "relu")]
        layers |= {f"blocks.{number}.conv.{position}": part for position, part in enumerate(parts)}
    names = {}
    for name, shape in shapes.items():
        layer, parameter = name.rsplit(".", 1)
        if layer not in layers:
            raise UserError(f"--network {network}: a .params file becomes a MobileFaceNet; give --network {NetworkOptions.network}")
        of_weight = "arg:{}_gamma" if len(shape) == 1 else "arg:{}_weight"  # of a batch norm, of a convolution
        names[name] = Y1_PARAMETERS.get(parameter, of_weight).format(layers[layer])
    return names


def _from_torch(source: Path, network: str, shapes: Shapes) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{source}: PyTorch, which reads this file, is not installed; run 'pip install torch'") from error
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
        tensors = {name: tensor.detach() for name, tensor in loaded.items() if not name.endswith("num_batches_tracked")}
        if not all(tensor.is_floating_point() for tensor in tensors.values()):
            raise TypeError("tensors of other numbers")
        arrays = [(name, tensor.float().numpy()) for name, tensor in tensors.items()]
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}); correct the path") from error
    except Exception as error:  # of many types, as bad files go
        raise UserError(
            f"{source}: no plain PyTorch state dict of weights ({type(error).__name__});"
            " write it with torch.save(model.state_dict(), path)"
        ) from error
    pairs = dict(zip(shapes, arrays, strict=False))
    for ours, (theirs, _) in pairs.items():
        parameter = ours.rsplit(".", 1)[1]
        if theirs.rsplit(".", 1)[-1] != TORCH_PARAMETERS.get(parameter, parameter):
            raise UserError(f"{source}: {theirs!a} stands where {network} has {ours}; the layers must be the same, in order")
    state = _fitted(source, pairs, shapes)
    if len(arrays) != len(shapes):
        raise UserError(f"{source}: {len(arrays)} tensors, {network} has {len(shapes)}; the layers must be the same")
    return state


def _fitted(source: Path, pairs: dict[str, tuple[str, np.ndarray]], shapes: Shapes) -> dict[str, np.ndarray]:
    """Check arrays, by our names and with theirs, and return float32 copies in our shapes."""
    state = {}
    for ours, (theirs, array) in pairs.items():
        if [length for length in array.shape if length > 1] != [length for length in shapes[ours] if length > 1]:
            raise UserError(
                f"{source}: {theirs!a} has shape {list(array.shape)}, {ours} of this network has {list(shapes[ours])};"
                " give the --network and --embedding_size that it was trained with"
            )
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            state[ours] = array.reshape(shapes[ours]).astype(np.float32)
        if not np.isfinite(state[ours]).all():
            raise UserError(f"{source}: {theirs!a} holds values that are no finite float32; fetch the file again")
        if ours.endswith("._variance") and not (state[ours] > 0).all():
            raise UserError(f"{source}: {theirs!a} holds variances that are not positive; fetch the file again")
    return state


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
        print(f"valid.py takes {first.name}, which is beside it; to verify this file, move it to another directory")
        return
    print(
        f"verify them: python valid.py --network {options.network} --embedding_size {options.embedding_size} "
        f"--checkpoint {shlex.quote(str(destination.parent))} --data_dir MS1M_v2 --val_targets lfw"
    )


def command() -> None:
    """`arcface-weights`, and `python -m arcface.weights.convert`."""
    run(main)


if __name__ == "__main__":
    command()
