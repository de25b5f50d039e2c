"""InsightFace's ONNX recognisers, iresnet and mbf, as state dicts of ours.

Their values are numbered, and batch norms behind a convolution or linear layer are mostly folded into it, so that names say
nothing: the graph is walked, from the images to the embeddings, as our networks compute. What a folded batch norm left, weights and
a bias, becomes our layer and a batch norm that adds the bias and otherwise changes nothing. Its statistics are gone: to fine-tune
such weights, freeze them (--batch_norm frozen).
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from arcface.backbones.batch_norm import EPSILON
from arcface.errors import UserError
from arcface.weights.fit import Shapes, fitted
from arcface.weights.onnx_graph import Graph, attributes, damaged


def fit_onnx(graph: Graph, network: str, shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the weights by our names, float32 in `shapes`, those of the backbone called `network`.

    A normalisation of the images before the first layer is folded into it.

    Raises UserError where the graph differs from the network, which must be an iresnet or mbf.
    """
    follow = next((follow for first, follow in FAMILIES.items() if first in shapes), None)
    if not follow:
        raise UserError(f"--network {network}: an ONNX file becomes an iresnet, mbf or mbf_large; pass one of these")
    walk = _Walk(graph, network, shapes)
    try:
        end = follow(walk, walk.normalised(graph.input))
    except UserError:
        raise
    except Exception as error:  # attributes, inputs and outputs may be of any number, type and shape
        raise damaged(graph.source, error) from error
    if end != graph.output:
        raise UserError(f"{graph.source}: after the embeddings of {network} comes {graph.described(end)}; pass another file")
    return fitted(graph.source, {name: walk.arrays[name] for name in shapes}, shapes)


def weight_shapes(graph: Graph) -> list[tuple[int, ...]]:
    """Return the shapes of a graph's constants."""
    return [array.shape for array in graph.constants.values()]


class _Walk:
    """Follows layers from value to value, each method one layer; `arrays` collects theirs by our names, each with its name."""

    def __init__(self, graph: Graph, network: str, shapes: Shapes):
        self.graph, self.network, self.shapes = graph, network, shapes
        self.arrays: dict[str, tuple[str, np.ndarray]] = {}
        self.input_scale = 1.0

    def normalised(self, images: str) -> str:
        """Follow a normalisation of pixels 0 to 255, if there is one; ours, (x - 127.5) / 127.5, comes before the network."""
        x, scale, shift = images, 1.0, 0.0
        while nodes := self.graph.takers(x, "Sub", "Add", "Mul", "Div"):
            value = self._constant(nodes[0], 1)[1]
            if np.unique(value).size != 1:
                raise self._error("one number for all channels to normalise by", x)
            number = float(value.flat[0])
            if nodes[0].op_type in ("Mul", "Div"):
                factor = number if nodes[0].op_type == "Mul" else 1 / number
                scale, shift = scale * factor, shift * factor
            else:
                shift += number if nodes[0].op_type == "Add" else -number
            x = self._output(nodes[0])
        if x != images:
            if not np.isclose(shift, -127.5 * scale, rtol=1e-4):
                raise UserError(
                    f"{self.graph.source}: normalises images as {scale:g} * x {shift:+g}, not around 127.5; pass another file"
                )
            self.input_scale = 127.5 * scale
        return x

    def convolution(self, x: str, name: str, norm: str, stride: int = 1, padding: int = 1, grouped: bool = False) -> str:
        """Follow a convolution without bias and its batch norm, or both as one convolution with bias."""
        node = self._only(x, name, "Conv")
        outputs, inputs, *_ = self.shapes[f"{name}.weight"]
        expected = {
            "strides": [stride] * 2,
            "pads": [padding] * 4,
            "dilations": [1, 1],
            "group": outputs // inputs if grouped else 1,
            "auto_pad": b"NOTSET",
        }
        default = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
        found = default | attributes(node)
        for attribute, value in expected.items():
            if found[attribute] != value:
                raise self._error(f"{name} with {attribute} {value}", x, f" with {attribute} {found[attribute]}")
        theirs, weight = self._constant(node, 1)
        if self.input_scale != 1:  # of the first convolution
            weight, self.input_scale = weight * weight.dtype.type(self.input_scale), 1.0
        self.arrays[f"{name}.weight"] = theirs, weight
        return self._normed(self._output(node), norm, self._constant(node, 2) if self._has_input(node, 2) else None)

    def linear(self, x: str, name: str, norm: str) -> str:
        """Follow a linear layer of flattened values and its batch norm, or both as one linear layer."""
        x = self._reshaped(x)
        node = self._only(x, name, "Gemm", "MatMul")
        theirs, weight = self._constant(node, 1)
        bias = self._constant(node, 2) if self._has_input(node, 2) else None
        scales = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        found = scales | attributes(node)
        if any(found[attribute] != value for attribute, value in scales.items()):
            raise self._error(name, x, " with a scale")
        x = self._output(node)
        if bias is None and (adds := self.graph.takers(x, "Add")):
            bias = self._constant(adds[0], 1 if self.graph.name(adds[0].input[0]) == x else 0)
            x = self._output(adds[0])
        self.arrays[f"{name}.weight"] = theirs, weight.T if found.get("transB") else weight
        if f"{name}.bias" in self.shapes:
            self.arrays[f"{name}.bias"] = bias or ("", np.zeros(self.shapes[f"{name}.bias"], np.float32))
            bias = None
        return self._reshaped(self._normed(self._reshaped(x), norm, bias))

    def batch_norm(self, x: str, name: str, bias: tuple[str, np.ndarray] | None = None) -> str:
        """Follow a batch norm; a bias before it is subtracted from its mean."""
        node = self._only(x, name, "BatchNormalization")
        weight, shift, mean, variance = (self._constant(node, place) for place in range(1, 5))
        epsilon = attributes(node).get("epsilon", EPSILON)
        if not np.isclose(epsilon, EPSILON):  # the layer sees only variance + eps
            variance = variance[0], variance[1] + variance[1].dtype.type(epsilon - EPSILON)
        if bias:
            mean = mean[0], mean[1] - bias[1]
        self._set_norm(name, weight, shift, mean, variance)
        return self._output(node)

    def prelu(self, x: str, name: str) -> str:
        node = self._only(x, name, "PRelu")
        theirs, slope = self._constant(node, 1)
        shape = self.shapes[f"{name}._weight"]
        self.arrays[f"{name}._weight"] = theirs, np.broadcast_to(slope.reshape(-1), shape) if slope.size == 1 else slope
        return self._output(node)

    def add(self, x: str, y: str, name: str) -> str:
        """Follow the sum of two values."""
        node = self._only(x, f"the sum of {name}", "Add")
        if {self.graph.name(value) for value in node.input} != {x, y}:
            raise self._error(f"the sum of {name} with its input", x)
        return self._output(node)

    def _reshaped(self, x: str) -> str:
        """Follow what leaves numbers and their order as they are, such as a batch norm's of rows."""
        while nodes := self.graph.takers(x, "Flatten", "Reshape", "Squeeze", "Unsqueeze"):
            x = self._output(nodes[0])
        return x

    def _normed(self, x: str, norm: str, bias: tuple[str, np.ndarray] | None) -> str:
        if self.graph.takers(x, "BatchNormalization"):
            return self.batch_norm(x, norm, bias)
        one, zero = (np.full(self.shapes[f"{norm}.bias"], value, np.float32) for value in (1, 0))
        self._set_norm(norm, ("", one), bias or ("", zero), ("", zero), ("", one - np.float32(EPSILON)))
        return x

    def _set_norm(self, name: str, *arrays: tuple[str, np.ndarray]) -> None:
        self.arrays |= zip((f"{name}.{part}" for part in ("weight", "bias", "_mean", "_variance")), arrays, strict=True)

    def _only(self, x: str, name: str, *operators: str) -> Any:
        """Return the one node of these operators that takes a value."""
        nodes = self.graph.takers(x, *operators)
        if len(nodes) != 1:
            raise self._error(f"{name} ({' or '.join(operators)})", x)
        return nodes[0]

    def _has_input(self, node: Any, place: int) -> bool:
        return len(node.input) > place and node.input[place] != ""

    def _constant(self, node: Any, place: int) -> tuple[str, np.ndarray]:
        """Return the name and value of the constant that is an input of a node."""
        name = self.graph.name(node.input[place]) if self._has_input(node, place) else ""
        if name not in self.graph.constants or self.graph.constants[name].dtype.kind != "f":
            raise self._error("floating-point weights that are constants", self.graph.name(node.input[0]))
        return name, self.graph.constants[name]

    def _output(self, node: Any) -> str:
        return self.graph.name(node.output[0])

    def _error(self, expected: str, x: str, detail: str = "") -> UserError:
        return UserError(
            f"{self.graph.source}: {self.network} has {expected:.100} where the file has {self.graph.described(x)}{detail};"
            " pass the --network that it was trained with"
        )


def _iresnet(walk: _Walk, x: str) -> str:
    x = walk.prelu(walk.convolution(x, "conv1", "bn1"), "prelu")
    for stage in range(1, 5):
        for number in count():
            block = f"layer{stage}.{number}"
            if f"{block}.conv1.weight" not in walk.shapes:
                break
            projected = f"{block}.downsample.0.weight" in walk.shapes
            y = walk.convolution(walk.batch_norm(x, f"{block}.bn1"), f"{block}.conv1", f"{block}.bn2")
            y = walk.prelu(y, f"{block}.prelu")
            y = walk.convolution(y, f"{block}.conv2", f"{block}.bn3", stride=2 if projected else 1)
            if projected:
                x = walk.convolution(x, f"{block}.downsample.0", f"{block}.downsample.1", stride=2, padding=0)
            x = walk.add(y, x, block)
    return walk.linear(walk.batch_norm(x, "bn2"), "fc", "features")


def _mbf(walk: _Walk, x: str) -> str:
    def block(x: str, name: str, **how) -> str:
        x = walk.convolution(x, f"{name}.layers.0", f"{name}.layers.1", **how)
        return walk.prelu(x, f"{name}.layers.2") if f"{name}.layers.2._weight" in walk.shapes else x

    def depthwise(x: str, name: str, stride: int) -> str:
        x = block(x, f"{name}.layers.0", padding=0)
        x = block(x, f"{name}.layers.1", stride=stride, grouped=True)
        return block(x, f"{name}.layers.2", padding=0)

    def residuals(x: str, name: str) -> str:
        for number in count():
            part = f"{name}.layers.{number}"
            if f"{part}.layers.0.layers.0.weight" not in walk.shapes:
                return x
            x = walk.add(depthwise(x, part, 1), x, part)
        raise AssertionError

    x = block(x, "layers.0", stride=2)
    x = (
        residuals(x, "layers.1")
        if "layers.1.layers.0.layers.0.layers.0.weight" in walk.shapes
        else block(x, "layers.1", grouped=True)
    )
    for place in (2, 4, 6):
        x = residuals(depthwise(x, f"layers.{place}", 2), f"layers.{place + 1}")
    x = block(block(x, "conv_sep", padding=0), "features.layers.0", padding=0, grouped=True)
    return walk.linear(x, "features.layers.2", "features.layers.3")


FAMILIES: dict[str, Callable[[_Walk, str], str]] = {"layer1.0.conv1.weight": _iresnet, "conv_sep.layers.0.weight": _mbf}
