"""ONNX graphs of our iresnet and mbf, as PyTorch exports arcface_torch's: numbered values, folded batch norms.

The names of layers are those of arcface_torch; what a graph contains differs by exporter and its version, see `Export`.
"""

from dataclasses import dataclass
from itertools import count

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EPSILON = 1e-5


@dataclass
class Export:
    """How a graph is exported."""

    fold: bool = True  # batch norms behind convolutions
    fold_last: bool = False  # the batch norm behind the linear layer, as the new exporter does
    linear: str = "Gemm"  # or "Gemm transposed", "MatMul"
    flatten: str = "Flatten"  # or "Reshape"
    constants: bool = False  # as nodes, shared ones through Identity
    epsilon: float = EPSILON
    normalise: tuple[tuple[str, float], ...] = ()  # operators with a number each, before the first layer
    after: str | None = None  # an operator after the embeddings


class Builder:
    """Adds layers to a graph; each method returns the name of its output."""

    def __init__(self, state: dict[str, np.ndarray], how: Export):
        self.state, self.how = state, how
        self.numbers = map(str, count(500))
        self.nodes, self.initializers = [], []

    def node(self, operator: str, *inputs: str, **attributes) -> str:
        (output,) = outputs = [next(self.numbers)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, f"{operator}_{len(self.nodes)}", **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        name = next(self.numbers)
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        if self.how.constants:
            return self.node("Identity", self.node("Constant", value=tensor))
        self.initializers.append(tensor)
        return name

    def folded(self, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """The factor and the bias that a batch norm is."""
        weight, bias, mean, variance = (
            self.state[f"{norm}.{part}"].astype("f8") for part in ("weight", "bias", "_mean", "_variance")
        )
        factor = weight / np.sqrt(variance + self.how.epsilon)
        return factor, bias - factor * mean

    def norm(self, x: str, name: str) -> str:
        arrays = [self.constant(self.state[f"{name}.{part}"]) for part in ("weight", "bias", "_mean", "_variance")]
        return self.node("BatchNormalization", x, *arrays, epsilon=self.how.epsilon)

    def conv(self, x: str, name: str, norm: str, stride=1, padding=1, group=1) -> str:
        weight = self.state[f"{name}.weight"]
        how = {"strides": [stride] * 2, "pads": [padding] * 4, "group": group, "kernel_shape": weight.shape[2:]}
        if not self.how.fold:
            return self.norm(self.node("Conv", x, self.constant(weight), **how), norm)
        factor, bias = self.folded(norm)
        weight = (weight * factor[:, None, None, None]).astype("f4")
        return self.node("Conv", x, self.constant(weight), self.constant(bias.astype("f4")), **how)

    def prelu(self, x: str, name: str) -> str:
        return self.node("PRelu", x, self.constant(self.state[f"{name}._weight"].reshape(-1, 1, 1)))

    def linear(self, x: str, name: str, norm: str) -> str:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        if self.how.flatten == "Flatten":
            x = self.node("Flatten", x, axis=1)
        else:
            self.initializers.append(numpy_helper.from_array(np.array([-1, len(weight)]), "shape"))
            x = self.node("Reshape", x, "shape")
        if self.how.fold_last:
            factor, shift = self.folded(norm)
            weight, bias = (weight * factor).astype("f4"), (shift + (0 if bias is None else factor * bias)).astype("f4")
        biases = [] if bias is None else [self.constant(bias)]
        if self.how.linear == "MatMul":
            x = self.node("MatMul", x, self.constant(weight))
            x = self.node("Add", x, *biases) if biases else x
        else:
            transposed = self.how.linear == "Gemm transposed"
            x = self.node("Gemm", x, self.constant(weight.T if transposed else weight), *biases, transB=int(transposed))
        return x if self.how.fold_last else self.norm(x, norm)


def iresnet(build: Builder, x: str) -> str:
    x = build.prelu(build.conv(x, "conv1", "bn1"), "prelu")
    for block in [f"layer{stage}.{number}" for stage in range(1, 5) for number in range(10)]:
        if f"{block}.bn1.weight" in build.state:
            projected = f"{block}.downsample.0.weight" in build.state
            stride = 2 if projected else 1
            y = build.conv(build.norm(x, f"{block}.bn1"), f"{block}.conv1", f"{block}.bn2")
            y = build.conv(build.prelu(y, f"{block}.prelu"), f"{block}.conv2", f"{block}.bn3", stride)
            if projected:
                x = build.conv(x, f"{block}.downsample.0", f"{block}.downsample.1", stride, 0)
            x = build.node("Add", y, x)
    return build.linear(build.norm(x, "bn2"), "fc", "features")


def mbf(build: Builder, x: str) -> str:
    def block(x, name, stride=1, padding=0, group=1):
        x = build.conv(x, f"{name}.layers.0", f"{name}.layers.1", stride, padding, group)
        return build.prelu(x, f"{name}.layers.2") if f"{name}.layers.2._weight" in build.state else x

    def depthwise(x, name, stride):
        group = len(build.state[f"{name}.layers.1.layers.0.weight"])
        return block(block(block(x, f"{name}.layers.0"), f"{name}.layers.1", stride, 1, group), f"{name}.layers.2")

    def residuals(x, name):
        for part in [f"{name}.layers.{number}" for number in range(20)]:
            if f"{part}.layers.0.layers.0.weight" in build.state:
                x = build.node("Add", x, depthwise(x, part, 1))
        return x

    x = block(x, "layers.0", 2, 1)
    x = block(x, "layers.1", 1, 1, 64) if "layers.1.layers.0.weight" in build.state else residuals(x, "layers.1")
    for place in (2, 4, 6):
        x = residuals(depthwise(x, f"layers.{place}", 2), f"layers.{place + 1}")
    x = block(block(x, "conv_sep"), "features.layers.0", group=512)
    return build.linear(x, "features.layers.2", "features.layers.3")


def model(state: dict[str, np.ndarray], how: Export) -> onnx.ModelProto:
    """The graph of a state dict of ours, an iresnet's or mbf's."""
    build, x = Builder(state, how), "input.1"
    for operator, number in how.normalise:
        x = build.node(operator, x, build.constant(np.array(number, "f4")))
    x = (iresnet if "layer1.0.bn1.weight" in state else mbf)(build, x)
    x = build.node(how.after, x) if how.after else x
    images = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["N", 3, 112, 112])
    graph = helper.make_graph(
        build.nodes, "torch_jit", [images], [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", None])], build.initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
