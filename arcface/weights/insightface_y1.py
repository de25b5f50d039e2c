"""InsightFace's MobileFaceNet (model y1 of its model zoo, an MXNet file) as a state dict of ours.

What y1 does differently, the scale of its input, the eps of its batch norms and a bias before the last of them, is folded into
the weights, so that the embeddings stay what they were. Names and numbers are those of its model-symbol.json.
"""

from pathlib import Path

import numpy as np

from arcface.backbones.batch_norm import EPSILON
from arcface.config import NetworkOptions
from arcface.errors import UserError
from arcface.weights.fit import Shapes, fitted
from arcface.weights.mxnet import read_params

# Our layers around the blocks with y1's names, and y1's blocks in the order of ours.
LAYERS = {"conv1": "conv_1", "dw_conv1": "conv_2_dw", "conv2": "conv_6sep", "linear7": "conv_6dw7_7"}
BLOCKS = [
    "dconv_23",
    *(f"res_3_block{number}" for number in range(4)),
    "dconv_34",
    *(f"res_4_block{number}" for number in range(6)),
    "dconv_45",
    *(f"res_5_block{number}" for number in range(2)),
]
PARAMETERS = {"bias": "arg:{}_beta", "_mean": "aux:{}_moving_mean", "_variance": "aux:{}_moving_var", "_weight": "arg:{}_gamma"}
LAST_BIAS = "linear1.conv.bias"  # which ours has not

INPUT_SCALE = 0.0078125  # times (x - 127.5); ours is 1 / 127.5
Y1_EPSILON, Y1_LAST_EPSILON = 1e-3, 2e-5  # of the batch norms, and of the last one, whose gamma is fixed at 1


def read_y1(source: Path, network: str, shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the weights of y1 by our names, float32 in `shapes`, those of the backbone called `network`.

    Raises:
        UserError: the file cannot be read or is another model, or the network is no MobileFaceNet.
    """
    names = _names(network, shapes) | {LAST_BIAS: "arg:pre_fc1_bias"}
    params = read_params(source)
    for kind, some in (("missing", names.values() - params.keys()), ("unknown", params.keys() - names.values())):
        if some:
            raise UserError(
                f"{source}: not InsightFace's MobileFaceNet y1: {len(some)} names {kind}, such as {min(some)}; download that model"
            )
    shapes = shapes | {LAST_BIAS: shapes["linear1.bn.bias"]}
    state = fitted(source, {ours: (theirs, params[theirs]) for ours, theirs in names.items()}, shapes)
    # Exact but for rounding: conv(s x) = (s conv)(x); a batch norm sees only variance + eps and input - mean.
    state["conv1.conv.weight"] *= np.float32(INPUT_SCALE * 127.5)
    for name in state:
        if name.endswith("._variance"):
            state[name] += np.float32((Y1_LAST_EPSILON if name == "linear1.bn._variance" else Y1_EPSILON) - EPSILON)
    state["linear1.bn.weight"][:] = 1
    state["linear1.bn._mean"] -= state.pop(LAST_BIAS)
    return state


def _names(network: str, shapes: Shapes) -> dict[str, str]:
    """Return y1's name of each of our parameters: 'arg:conv_1_batchnorm_beta' for 'conv1.bn.bias'."""
    layers = {"linear1.conv": "fc1", "linear1.bn": "fc1"}
    for ours, theirs in LAYERS.items():
        layers |= {f"{ours}.conv": f"{theirs}_conv2d", f"{ours}.bn": f"{theirs}_batchnorm", f"{ours}.prelu": f"{theirs}_relu"}
    for number, block in enumerate(BLOCKS):
        parts = [f"{block}_conv_{part}_{kind}" for part in ("sep", "dw", "proj") for kind in ("conv2d", "batchnorm", "relu")]
        layers |= {f"blocks.{number}.conv.{position}": part for position, part in enumerate(parts)}
    names = {}
    for name, shape in shapes.items():
        layer, parameter = name.rsplit(".", 1)
        if layer not in layers:
            raise UserError(f"--network {network}: a .params file becomes a MobileFaceNet; pass --network {NetworkOptions.network}")
        of_weight = "arg:{}_gamma" if len(shape) == 1 else "arg:{}_weight"  # of a batch norm, of a convolution
        names[name] = PARAMETERS.get(parameter, of_weight).format(layers[layer])
    return names
