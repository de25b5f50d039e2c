"""Files of weights, of ours and of others: read once, then found and fitted to a backbone of ours."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from arcface.backbones import BACKBONES, create_backbone
from arcface.config import NetworkOptions
from arcface.errors import UserError
from arcface.weights.arcface_paddle import in_our_names, without_head
from arcface.weights.fit import Shapes, fitted
from arcface.weights.insightface_y1 import read_y1
from arcface.weights.onnx import fit_onnx, weight_shapes
from arcface.weights.onnx_graph import Graph
from arcface.weights.state_dict import SUFFIXES, checked, read_state_dict
from arcface.weights.torch import fit_torch, read_torch

SIZE_TO_FIND = 65_521  # an embedding size that is the length of nothing else


@dataclass(frozen=True)
class Published:
    """Weights in a file, not yet a backbone's."""

    source: Path
    shapes: list[tuple[int, ...]]
    """Of its tensors, by which the backbone is found; none, if it can only be MobileFaceNet_128."""
    fit: Callable[[str, Shapes], dict[str, np.ndarray]]
    """Returns them as the state dict of a backbone, given its name and shapes; raises UserError if they are another's."""


def read_published(source: Path) -> Published:
    """Read a file of weights; the head of convert.py says which.

    Raises UserError if it cannot be read, is damaged or of another kind.
    """
    if source.suffix in SUFFIXES:
        arrays = in_our_names(read_state_dict(source))
        return Published(source, _shapes(arrays), lambda _, shapes: _fit_ours(source, without_head(arrays, shapes), shapes))
    if source.suffix == ".params":
        return Published(source, [], lambda network, shapes: read_y1(source, network, shapes))
    if source.suffix in (".pth", ".pt"):
        tensors = read_torch(source)
        return Published(source, _shapes(tensors), lambda network, shapes: fit_torch(source, tensors, network, shapes))
    if source.suffix == ".onnx":
        graph = Graph(source)
        return Published(source, weight_shapes(graph), lambda network, shapes: fit_onnx(graph, network, shapes))
    raise UserError(
        f"{source}: weights are read from .params (MXNet), .pth and .pt (PyTorch), .onnx and {' and '.join(SUFFIXES)} files;"
        " pass one of these"
    )


def find_network(shapes: list[tuple[int, ...]], networks: list[str]) -> tuple[str, int | None]:
    """Return which of these backbones is nearest to a file with tensors of these shapes, and the file's embedding size.

    Shapes count, names and order do not; lengths of 1 and shapes of one length are left out. The size is None if the file's last
    layer cannot be told.
    """
    theirs = _weights(shapes)
    different = {}
    for network in networks:
        ours = _weights(list(backbone_shapes(network, SIZE_TO_FIND).values()))
        different[network] = ours - theirs, theirs - ours
    network = min(different, key=lambda name: sum(part.total() for part in different[name]))
    missing, unknown = different[network]
    inputs = {length for shape in missing for length in shape if SIZE_TO_FIND in shape and length != SIZE_TO_FIND}
    sizes = [shape[shape[0] in inputs] for shape in unknown if len(shape) == 2 and inputs & set(shape)]
    return network, sizes[0] if len(sizes) == 1 else None


def backbone_shapes(network: str, embedding_size: int) -> Shapes:
    """Return the shapes of a backbone's state dict, without memory for its values; raises UserError for an unknown name."""
    with paddle.LazyGuard():
        backbone = create_backbone(network, embedding_size)
    return {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}


def as_backbone(weights: Published, network: str | None, embedding_size: int | None) -> tuple[str, int, dict[str, np.ndarray]]:
    """Return the weights as a backbone's state dict, float32 in its order, with its name and embedding size.

    What is not given is found from the file's shapes.

    Raises UserError if the weights are another network's, naming what differs.
    """
    networks = [network] if network else list(BACKBONES) if weights.shapes else [NetworkOptions.network]
    found, size = find_network(weights.shapes, networks)
    embedding_size = embedding_size or size or NetworkOptions.embedding_size
    try:
        return found, embedding_size, weights.fit(found, backbone_shapes(found, embedding_size))
    except UserError as error:
        if network:
            raise
        raise UserError(f"{error} (nearest of the backbones here: {found})") from error


def _fit_ours(source: Path, arrays: dict[str, np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    return fitted(source, {name: (name, array) for name, array in checked(arrays, shapes, str(source)).items()}, shapes)


def _shapes(arrays: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays.values()]


def _weights(shapes: list[tuple[int, ...]]) -> Counter[tuple[int, ...]]:
    """Count the shapes of weights, as their lengths in increasing order."""
    significant = (tuple(sorted(length for length in shape if length > 1)) for shape in shapes)
    return Counter(shape for shape in significant if len(shape) > 1)
