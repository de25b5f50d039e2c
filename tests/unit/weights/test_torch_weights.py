"""A PyTorch state dict of the same layers gives the same embeddings; others, and pickles that act, are refused."""

import os
from collections import OrderedDict

import numpy as np
import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.errors import UserError
from arcface.weights.convert import convert, main
from arcface.weights.run_directory import read_backbone
from arcface.weights.state_dict import load_backbone

torch = pytest.importorskip("torch")
NETWORK = "MobileFaceNet_128"


def unit(channels_in, channels_out, kernel, stride=1, padding=0, groups=1, prelu=True):
    convolution = torch.nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)
    return [convolution, torch.nn.BatchNorm2d(channels_out), *([torch.nn.PReLU(channels_out)] if prelu else [])]


class Residual(torch.nn.Module):
    def __init__(self, channels_in, channels_out, stride, inner):
        super().__init__()
        self.adds = stride == 1
        self.layers = torch.nn.Sequential(
            *unit(channels_in, inner, 1), *unit(inner, inner, 3, stride, 1, inner), *unit(inner, channels_out, 1, prelu=False)
        )

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


def torch_mobilefacenet():
    """As in the PyTorch ports: the last layer is a Linear and a BatchNorm1d. Every number is random."""
    blocks = [
        (64, 64, 2, 128),
        *4 * [(64, 64, 1, 128)],
        (64, 128, 2, 256),
        *6 * [(128, 128, 1, 256)],
        (128, 128, 2, 512),
        *2 * [(128, 128, 1, 256)],
    ]
    model = torch.nn.Sequential(
        *unit(3, 64, 3, 2, 1),
        *unit(64, 64, 3, 1, 1, 64),
        *(Residual(*block) for block in blocks),
        *unit(128, 512, 1),
        *unit(512, 512, 7, groups=512, prelu=False),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 128, bias=False),
        torch.nn.BatchNorm1d(128),
    )
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if "num_batches_tracked" not in name and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) / 2 + (0.5 if "var" in name else 0.1))
        elif tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return model.eval()


def test_embeddings_are_those_of_pytorch(tmp_path):
    model = torch_mobilefacenet()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    main([str(tmp_path / "model.pth"), str(tmp_path / f"{NETWORK}.pdparams")])
    backbone = create_backbone(NETWORK, 128)
    load_backbone(backbone, read_backbone(tmp_path, NETWORK), "")
    backbone.eval()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(backbone(paddle.to_tensor(images)).numpy(), expected, rtol=1e-4, atol=1e-4)


def swapped(state):
    names = list(state)
    names[1], names[2] = names[2], names[1]
    return OrderedDict((name, state[name]) for name in names)


@pytest.mark.parametrize(
    "change, detail",
    [
        (
            lambda state: dict(list(state.items())[:-2]) | {"28.extra": torch.ones(128)},
            "'28.extra' is where MobileFaceNet_128 has linear1.bn._variance",
        ),
        (lambda state: state | {"29.weight": torch.ones(3)}, "284 tensors, MobileFaceNet_128 has 283"),
        (lambda state: dict(list(state.items())[:-9]), "tensors, MobileFaceNet_128 has 283"),
        (swapped, "'1.bias' is where MobileFaceNet_128 has conv1.bn.weight"),
        (
            lambda state: state | {"0.weight": torch.ones(64, 3, 5, 5)},
            "'0.weight' has shape [64, 3, 5, 5], conv1.conv.weight of this",
        ),
        (
            lambda state: state | {"2.weight": torch.ones(1)},
            "'2.weight' has shape [1], conv1.prelu._weight of this network has [64]",
        ),
        (lambda state: state | {"1.running_var": -torch.ones(64)}, "'1.running_var' contains variances that are not positive"),
        (lambda state: state | {"1.bias": torch.full([64], torch.nan)}, "'1.bias' contains values that are not finite as float32"),
        (lambda state: state | {"1.bias": torch.ones(64, dtype=torch.complex64)}, "no plain PyTorch state dict"),
        (lambda state: state | {"1.bias": torch.ones(64, dtype=torch.int32)}, "no plain PyTorch state dict"),
        (lambda state: {"state_dict": state}, "no plain PyTorch state dict"),
        (lambda state: list(state.values()), "no plain PyTorch state dict"),
    ],
)
def test_other_contents_are_refused_by_name(tmp_path, change, detail):
    torch.save(change(torch_mobilefacenet().state_dict()), tmp_path / "model.pt")
    with pytest.raises(UserError) as caught:
        convert(tmp_path / "model.pt", NETWORK, 128)
    assert detail in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/model.pt: ")


def test_half_precision_and_parameters_are_read(tmp_path):
    state = torch_mobilefacenet().state_dict()
    state["0.weight"] = torch.nn.Parameter(state["0.weight"].bfloat16())
    torch.save(state, tmp_path / "model.pt")
    assert np.array_equal(convert(tmp_path / "model.pt", NETWORK, 128)["conv1.conv.weight"], state["0.weight"].detach().float())


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_a_poisoned_or_damaged_file_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"0.weight": Attack()}, "model.pth")
    with pytest.raises(UserError, match="model.pth: no plain PyTorch state dict"):
        convert(tmp_path / "model.pth", NETWORK, 128)
    assert not (tmp_path / "attacked").exists()
    (tmp_path / "model.pth").write_bytes(b"\x80\x02damaged")
    with pytest.raises(UserError, match="model.pth: no plain PyTorch state dict"):
        convert(tmp_path / "model.pth", NETWORK, 128)
    with pytest.raises(UserError, match="absent.pth: cannot be read .No such file"):
        convert(tmp_path / "absent.pth", NETWORK, 128)
