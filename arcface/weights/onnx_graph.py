"""ONNX models as graphs of nodes to follow from layer to layer, whatever their values are called."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arcface.errors import UserError
from arcface.io.files import read_file

# Nodes that pass a value on: without effect in evaluation, or of constants, where lengths of 1 do not matter.
_PASSED_ON = {"Identity", "Dropout"}
_RESHAPED = {"Unsqueeze", "Squeeze"}


class Graph:
    """The nodes of a model by the value that they take, and its constants by name.

    `source` is the file, `input` and `output` the names of the images and of the embeddings. A node that only passes its input
    on is left out, and its output has its input's name.

    Raises UserError if the file is no ONNX model, or a damaged one. Memory is in proportion to the size of the files.
    """

    def __init__(self, source: Path):
        self.source = source
        self.constants: dict[str, np.ndarray] = {}
        self._takers: dict[str, list[Any]] = defaultdict(list)
        self._names: dict[str, str] = {}
        model = _load(source)
        try:
            self._read(model.graph)
        except Exception as error:  # onnx raises many types
            raise damaged(source, error) from error
        inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        outputs = [value.name for value in model.graph.output]
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(
                f"{source}: {len(inputs)} inputs and {len(outputs)} outputs, a recogniser has one of each; pass another file"
            )
        self.input, self.output = inputs[0], self.name(outputs[0])

    def name(self, value: str) -> str:
        """Return the name of the value that a node's input or output is."""
        return self._names.get(value, value)

    def takers(self, value: str, *operators: str) -> list[Any]:
        """Return the nodes that take a value, those of these operators."""
        return [node for node in self._takers[value] if node.op_type in operators]

    def described(self, value: str) -> str:
        """Return what takes a value, for messages."""
        nodes = [f"{node.op_type} {node.name!a:.60}" for node in self._takers[value]]
        return " and ".join(nodes[:3]) or "the end"

    def _read(self, graph: Any) -> None:
        import onnx

        for tensor in graph.initializer:
            self.constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
        known = {"", *self.constants, *(value.name for value in graph.input)}
        for node in graph.node:
            if not known.issuperset(node.input) or not known.isdisjoint(node.output):
                raise ValueError(f"the values of node {node.name} are not in order")  # a cycle would be followed forever
            known.update(node.output)
            inputs = [self.name(value) for value in node.input]
            constant = self.constants.get(inputs[0]) if inputs else None
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type in _PASSED_ON or _is_to_float(node) or node.op_type in _RESHAPED and constant is not None:
                self._names[node.output[0]] = inputs[0]
            elif node.op_type == "Transpose" and constant is not None:
                self.constants[node.output[0]] = constant.transpose(attributes(node).get("perm"))
            elif node.op_type == "Reshape" and constant is not None:
                self.constants[node.output[0]] = constant.reshape(self.constants[inputs[1]])
            else:
                for value in inputs:
                    self._takers[value].append(node)


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes by name."""
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_to_float(node: Any) -> bool:
    """Whether a node changes only the precision of numbers."""
    import onnx

    floats = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16
    return node.op_type == "Cast" and attributes(node).get("to") in floats


def _load(source: Path) -> Any:
    """Return the model in a file, with the weights that it keeps in files beside it."""
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"{source}: onnx, which reads this file, is not installed; run: pip install onnx") from error
    try:
        model = onnx.load_model_from_string(read_file(source))
        if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
            _check_sizes(model, source)
            onnx.load_external_data_for_model(model, str(source.parent))
        return model
    except OSError as error:
        advice = "correct the path" if error.filename in (None, str(source)) else f"put it where {source.name} expects it"
        raise UserError(f"{error.filename or source}: cannot be read ({error.strerror or error}); {advice}") from error
    except Exception as error:  # protobuf's and onnx's
        raise damaged(source, error) from error


def _check_sizes(model: Any, source: Path) -> None:
    """Raise ValueError if the tensors outside the model are larger together than the files that contain them."""
    places = list(_places(model))
    size = sum(os.path.getsize(str(source.parent / location)) for location in {location for location, _ in places})
    if any(length < 0 for _, length in places) or sum(length for _, length in places) > size:
        raise ValueError("weights larger than their file")


def _places(model: Any) -> Iterator[tuple[str, int]]:
    """Yield the file and the length of each tensor outside the model."""
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            yield place["location"], int(place["length"])


def damaged(source: Path, error: Exception) -> UserError:
    """Return the error for a file that is no valid ONNX model."""
    detail = ascii(str(error) or type(error).__name__)[1:-1]
    return UserError(f"{source}: not an ONNX model, or a damaged one ({detail:.100}); download it again")
