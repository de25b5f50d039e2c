"""State dicts of arcface_paddle and PLSC become ours; what they have besides is left out, and other networks are refused."""

import numpy as np
import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.errors import UserError
from arcface.weights.arcface_paddle import in_our_names
from arcface.weights.convert import convert
from arcface.weights.published import backbone_shapes


class ConvBatchNorm(paddle.nn.Layer):
    def __init__(self, channels_in, channels_out, kernel, stride=1):
        super().__init__()
        padding = (kernel - 1) // 2
        self._conv = paddle.nn.Conv2D(channels_in, channels_out, kernel, stride, padding, bias_attr=False)
        self._batch_norm = paddle.nn.BatchNorm2D(channels_out)

    def forward(self, x):
        return self._batch_norm(self._conv(x))


class Block(paddle.nn.Layer):
    def __init__(self, channels_in, channels_out, first):
        super().__init__()
        self._batch_norm = paddle.nn.BatchNorm2D(channels_in)
        self.conv0 = ConvBatchNorm(channels_in, channels_out, 3)
        self.prelu = paddle.nn.PReLU(1)
        self.conv1 = ConvBatchNorm(channels_out, channels_out, 3, 2 if first else 1)
        self.short = ConvBatchNorm(channels_in, channels_out, 1, 2) if first else None

    def forward(self, x):
        y = self.conv1(self.prelu(self.conv0(self._batch_norm(x))))
        return y + (self.short(x) if self.short else x)


class Last(paddle.nn.Layer):
    def __init__(self, channels, embedding_size):
        super().__init__()
        self._batch_norm_1 = paddle.nn.BatchNorm2D(channels)
        self.fc = paddle.nn.Linear(49 * channels, embedding_size)
        self._batch_norm_2 = paddle.nn.BatchNorm1D(embedding_size)

    def forward(self, x):
        return self._batch_norm_2(self.fc(self._batch_norm_1(x).flatten(1)))


class FresResNet(paddle.nn.Layer):
    """As arcface_paddle names it: blocks twice, by number and as res2a, res2b ..., and one slope for a PReLU."""

    def __init__(self, blocks, channels, embedding_size):
        super().__init__()
        self.conv = ConvBatchNorm(3, channels[0], 3)
        self.prelu = paddle.nn.PReLU(1)
        self.block_list = paddle.nn.LayerList()
        channels_in = channels[0]
        for stage, (repeats, channels_out) in enumerate(zip(blocks, channels), 2):
            for number in range(repeats):
                block = self.add_sublayer(f"res{stage}{chr(97 + number)}", Block(channels_in, channels_out, number == 0))
                self.block_list.append(block)
                channels_in = channels_out
        self.fc = Last(channels_in, embedding_size)

    def forward(self, x):
        x = self.prelu(self.conv(x))
        for block in self.block_list:
            x = block(x)
        return self.fc(x)


def randomise(layer):
    """Make every number of a layer random."""
    draw = np.random.default_rng(6)
    for name, tensor in layer.state_dict().items():
        if len(tensor.shape) == 1:
            low = 0.5 if name.endswith(("_variance", "weight")) else -0.5
            tensor.set_value(draw.uniform(low, low + 1, tensor.shape).astype("f4"))


@pytest.fixture
def small(monkeypatch):
    """iresnet50 with few channels, and FresResNet-50 as that."""
    monkeypatch.setattr("arcface.backbones.iresnet.STAGE_CHANNELS", (4, 4, 8, 8))
    net = FresResNet((3, 4, 14, 3), (4, 4, 8, 8), 16)
    randomise(net)
    net.eval()
    return net


def test_fresresnet_s_embeddings_stay_what_they_were(small, tmp_path):
    paddle.save(small.state_dict(), str(tmp_path / "FresResNet50.pdparams"))
    backbone = create_backbone("iresnet50", 16)
    state = convert(tmp_path / "FresResNet50.pdparams", "iresnet50", None)
    backbone.set_state_dict({name: paddle.to_tensor(array) for name, array in state.items()})
    backbone.eval()
    images = paddle.to_tensor(np.random.default_rng(1).uniform(-1, 1, (2, 3, 112, 112)).astype("f4"))
    with paddle.no_grad():
        found, expected = backbone(images).numpy(), small(images).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.linalg.norm(expected, axis=1).min())


def test_blocks_beyond_z_are_named(small):
    name = "res4~.conv1._conv.weight"  # the thirtieth block of FresResNet-100's third stage
    assert set(in_our_names({"conv._conv.weight": np.ones(1), name: np.ones(2)})) == {"conv1.weight", "layer3.29.conv2.weight"}


def test_names_that_fresresnet_has_not_and_those_that_are_missing_are_named(small, tmp_path):
    state = small.state_dict()
    paddle.save({**state, "res2a.extra.weight": paddle.ones([3])}, str(tmp_path / "a.pdparams"))
    with pytest.raises(UserError, match="1 names unknown, such as 'res2a.extra.weight'"):
        convert(tmp_path / "a.pdparams", "iresnet50", None)
    paddle.save({name: value for name, value in state.items() if "fc." not in name}, str(tmp_path / "a.pdparams"))
    with pytest.raises(UserError, match="10 names missing, such as bn2._mean; pass its --network"):
        convert(tmp_path / "a.pdparams", "iresnet50", 16)
    paddle.save(state, str(tmp_path / "a.pdparams"))
    with pytest.raises(UserError, match=r"a.pdparams: weights of another network: 240 names unknown, such as 'layer1.2.bn1._mean'"):
        convert(tmp_path / "a.pdparams", "iresnet18", None)


def test_plsc_s_head_is_left_out_and_a_head_of_ours_is_not(tmp_path):
    state = create_backbone("mbf", 32).state_dict()
    paddle.save({**state, "head.dist.w": paddle.ones([32, 9])}, str(tmp_path / "a.pdparams"))
    converted = convert(tmp_path / "a.pdparams", "mbf", None)
    assert list(converted) == list(backbone_shapes("mbf", 32))
    assert all(np.array_equal(converted[name], tensor.numpy()) for name, tensor in state.items())
