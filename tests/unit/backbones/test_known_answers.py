"""Weights made by a rule, in a file of PyTorch's, give the embeddings that arcface_torch's networks computed, under its names."""

import json

import numpy as np
import paddle
import pytest
import torch_files
from backbone_params import backbones

from arcface.backbones import ALIASES, create_backbone
from arcface.io.images import normalise
from arcface.weights.convert import convert
from arcface.weights.state_dict import load_backbone
from arcface.weights.torch import torch_name

KNOWN = {"iresnet18", "iresnet50", "iresnet100", "iresnet200", "mbf", "mbf_large"}
THEIR_NAMES = {ours: theirs for theirs, ours in ALIASES.items()}


@pytest.mark.parametrize("name", [param for param in backbones() if param.values[0] in KNOWN])
def test_names_shapes_and_embeddings_are_those_of_arcface_torch(name, real_data, tmp_path):
    theirs = THEIR_NAMES.get(name, name)
    known = json.loads((real_data / "known_backbones.json").read_text())[theirs]
    backbone = create_backbone(theirs, 512)
    own = backbone.state_dict()
    assert [torch_name(ours) for ours in own] == list(known["names"])
    statistics = [tensor.size for ours, tensor in own.items() if ours.endswith(("._mean", "._variance"))]
    assert sum(tensor.size for tensor in own.values()) - sum(statistics) == known["parameters"]

    arrays = torch_files.by_rule(known["names"], 1 if name.startswith("mbf") else 0.5)
    torch_files.save(torch_files.state_dict(arrays, "module."), tmp_path / "backbone.pth")
    load_backbone(backbone, convert(tmp_path / "backbone.pth", theirs, None), "backbone.pth")
    (tmp_path / "backbone.pth").unlink()
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
