"""An ONNX file as clients like to find it: named input and output, a named free batch, few nodes, metadata inside."""

from pathlib import Path

import onnx
from onnx import numpy_helper

BATCH = "n"


def finish(file: Path, images: str, embeddings: str, metadata: dict[str, str]) -> None:
    """Rewrite, in place, what Paddle2ONNX has written; what it computes stays the same.

    Constants become initializers, nodes that do nothing go, and biases are the convolutions' own. The nodes that compute then come
    first: the insightface package looks among the first eight for names that begin with Sub and Mul, which it takes for a sign that
    the model normalises by itself.
    """
    model = onnx.load(str(file))
    graph = model.graph
    for node in _nodes(graph, "Constant"):
        graph.initializer.add().CopyFrom(node.attribute[0].t)
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)
    same: dict[str, str] = {}
    for node in _nodes(graph, "Identity"):
        same[node.output[0]] = same.get(node.input[0], node.input[0])
        graph.node.remove(node)
    _rename(graph, same)
    _reshape_constants(graph)
    _give_biases_to_convolutions(graph)
    _rename(graph, {graph.input[0].name: images, same.get(graph.output[0].name, graph.output[0].name): embeddings})
    for value, name in ((graph.input[0], images), (graph.output[0], embeddings)):
        value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _nodes(graph: onnx.GraphProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == kind]


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _reshape_constants(graph: onnx.GraphProto) -> None:
    """Replace each node that reshapes a constant, such as a bias or the slopes of a PReLU, by the result."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in _nodes(graph, "Reshape"):
        if all(name in constants for name in node.input):
            array, shape = (numpy_helper.to_array(constants[name]) for name in node.input)
            graph.initializer.append(numpy_helper.from_array(array.reshape(shape), node.output[0]))
            graph.node.remove(node)


def _give_biases_to_convolutions(graph: onnx.GraphProto) -> None:
    """Replace each sum of a convolution and of a constant for each channel, which is how Paddle writes a bias."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    convolutions = {node.output[0]: node for node in _nodes(graph, "Conv")}
    for node in _nodes(graph, "Add"):
        conv, bias = convolutions.get(node.input[0]), constants.get(node.input[1])
        if conv and len(conv.input) == 2 and bias and list(bias.dims[:1]) == [1] and list(bias.dims[2:]) == [1, 1]:
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(bias).ravel(), f"{conv.name}.bias"))
            conv.input.append(f"{conv.name}.bias")
            conv.output[0] = node.output[0]  # the sum is its only reader
            graph.node.remove(node)
