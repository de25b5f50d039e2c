"""Weights made by a rule give the embeddings that arcface_torch's networks computed in PyTorch, under its names."""

import json
import zlib
from pathlib import Path

import numpy as np
import paddle
import pytest
from backbone_params import backbones

from arcface.backbones import ALIASES, create_backbone
from arcface.io.images import normalise
from arcface.weights import torch
from arcface.weights.state_dict import load_backbone

KNOWN = {"iresnet18", "iresnet50", "iresnet100", "iresnet200", "mbf", "mbf_large"}
THEIR_NAMES = {ours: theirs for theirs, ours in ALIASES.items()}


def values(name: str, shape: list[int], factor: float) -> np.ndarray:
    """A tensor of PyTorch's state dict by the rule in the data's README."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(0.2 * drawn)
    if len(shape) > 1:
        return factor * drawn * np.sqrt(1 / np.prod(shape[1:]))
    if name.endswith(("running_mean", "bias")):
        return 0.1 * drawn
    return 1 + 0.1 * drawn


@pytest.mark.parametrize("name", [param for param in backbones() if param.values[0] in KNOWN])
def test_names_shapes_and_embeddings_are_those_of_arcface_torch(name, real_data, monkeypatch):
    theirs = THEIR_NAMES.get(name, name)
    known = json.loads((real_data / "known_backbones.json").read_text())[theirs]
    backbone = create_backbone(theirs, 512)
    own = backbone.state_dict()
    assert [torch.torch_name(ours) for ours in own] == list(known["names"])
    statistics = [tensor.size for ours, tensor in own.items() if ours.endswith(("._mean", "._variance"))]
    assert sum(tensor.size for tensor in own.values()) - sum(statistics) == known["parameters"]

    factor = 1 if name.startswith("mbf") else 0.5
    file = [(their_name, values(their_name, shape, factor)) for their_name, shape in known["names"].items()]
    monkeypatch.setattr(torch, "_read", lambda source: file)  # PyTorch need not be installed
    state = torch.read_torch(Path("model.pt"), name, {ours: tuple(tensor.shape) for ours, tensor in own.items()})
    load_backbone(backbone, state, "model.pt")
    images = np.random.default_rng(7).integers(0, 256, (2, 3, 112, 112), dtype=np.uint8)
    backbone.eval()
    with paddle.no_grad():
        embeddings = backbone(normalise(paddle.to_tensor(images))).numpy()
    norm = np.array(known["norm"])
    for found, expected in (
        (embeddings[:, :16].T, np.transpose(known["embedding_first16"])),
        (np.linalg.norm(embeddings, axis=1), norm),
        (embeddings.sum(1), known["sum"]),
    ):
        assert (np.abs(found - expected) <= 1e-4 * norm).all()
