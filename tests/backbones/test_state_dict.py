"""Weights are read from anybody's file, or refused with what does not fit."""

import pickle

import numpy as np
import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.backbones.state_dict import load_backbone, read_backbone
from arcface.errors import UserError

NETWORK = "MobileFaceNet_128"


def test_a_state_dict_published_for_the_2021_toolkit_loads(tmp_path):
    published, ours = create_backbone(NETWORK, 128), create_backbone(NETWORK, 128)
    paddle.save(published.state_dict(), str(tmp_path / f"{NETWORK}.pdparams"))
    load_backbone(ours, read_backbone(tmp_path, NETWORK), "")
    for name, tensor in published.state_dict().items():
        assert np.array_equal(tensor.numpy(), ours.state_dict()[name].numpy())


def test_weights_of_another_size_or_network_are_refused(tmp_path):
    other = {name: tensor.numpy() for name, tensor in create_backbone(NETWORK, 64).state_dict().items()}
    backbone = create_backbone(NETWORK, 128)
    with pytest.raises(UserError, match=r"linear1.conv.weight has shape \[64, 512, 1, 1\], this network's is \[128, 512"):
        load_backbone(backbone, other, "file")
    del other["conv1.conv.weight"]
    with pytest.raises(UserError, match="1 names missing, such as conv1.conv.weight"):
        load_backbone(backbone, other, "file")


def test_other_precisions_become_float32_and_what_is_no_number_is_refused():
    given, ours = create_backbone(NETWORK, 128), create_backbone(NETWORK, 128)
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in given.state_dict().items()}
    load_backbone(ours, state, "file")
    for name, tensor in given.state_dict().items():
        assert np.array_equal(tensor.numpy(), ours.state_dict()[name].numpy())
    state["conv1.bn.bias"] = np.array([b"x"] * 64)
    with pytest.raises(UserError, match="file: conv1.bn.bias is of type .S1, not floating point"):
        load_backbone(ours, state, "file")


def test_a_directory_without_the_network_says_what_was_looked_for_and_found(tmp_path):
    with pytest.raises(UserError, match="looked for MobileFaceNet_128.pdparams, found no .pdparams file"):
        read_backbone(tmp_path, NETWORK)
    (tmp_path / "iresnet50.pdparams").touch()
    with pytest.raises(UserError, match="found iresnet50.pdparams"):
        read_backbone(tmp_path, NETWORK)
    (tmp_path / f"{NETWORK}.pdparams").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="not a state dict"):
        read_backbone(tmp_path, NETWORK)
