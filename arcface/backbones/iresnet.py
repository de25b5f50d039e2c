"""iResNet, the residual networks of the ArcFace paper (Deng et al. 2019, arXiv:1801.07698), as in InsightFace's arcface_torch.

A block is batch norm, convolution, batch norm, PReLU, convolution, batch norm, and its input is added. Sub-layers have
arcface_torch's names. Two things differ, in training only: convolutions start from He's values, as all here, not from a standard
deviation of 0.1; and the scale of the last batch norm is trained, not fixed at 1, since Paddle's gradient of a batch norm has no
shift without a scale.
"""

from functools import partial

from paddle import nn

from arcface.backbones.layers import Add, Conv2D, batch_norm_rows, keep_float32, linear, prelu
from arcface.backbones.recompute import RecomputableLayer
from arcface.io.images import SIZE

STAGE_CHANNELS = 64, 128, 256, 512


class Block(RecomputableLayer):
    """Two 3x3 convolutions, the second with the stride; the input, projected if its shape differs, is added."""

    def __init__(self, channels_in, channels_out, stride, batch_norm):
        super().__init__()
        self.bn1 = batch_norm(channels_in)
        self.conv1 = Conv2D(channels_in, channels_out, 3, padding=1)
        self.bn2 = batch_norm(channels_out)
        self.prelu = prelu(channels_out)
        self.conv2 = Conv2D(channels_out, channels_out, 3, stride, padding=1)
        self.bn3 = batch_norm(channels_out)
        self.add = Add()
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(Conv2D(channels_in, channels_out, 1, stride), batch_norm(channels_out))

    def forward(self, x):
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return self.add(y, x if self.downsample is None else self.downsample(x))


class IResNet(nn.Layer):
    """Maps normalised RGB images, float32 [N, 3, 112, 112], to embeddings, float32 [N, embedding_size].

    `blocks` of each of the four stages. `batch_norm` creates a batch norm layer for a number of channels (see batch_norm.py).
    """

    def __init__(self, blocks, embedding_size=512, batch_norm=nn.BatchNorm2D):
        super().__init__()
        self.stages = {"stem": ["conv1", "bn1", "prelu"]}
        channels = STAGE_CHANNELS[0]
        self.conv1 = Conv2D(3, channels, 3, padding=1)
        self.bn1 = batch_norm(channels)
        self.prelu = prelu(channels)
        for stage, (repeats, channels_out) in enumerate(zip(blocks, STAGE_CHANNELS, strict=True), 1):
            layers = [Block(channels, channels_out, 2, batch_norm)]
            layers += [Block(channels_out, channels_out, 1, batch_norm) for _ in range(repeats - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
            self.stages[f"stage{stage}"] = [f"layer{stage}"]
            channels = channels_out
        self.bn2 = batch_norm(channels)
        self.values = channels * (SIZE // 2 ** len(blocks)) ** 2
        self.fc = keep_float32(linear(self.values, embedding_size))
        self.features = keep_float32(batch_norm(embedding_size))
        self.stages["embedding"] = ["bn2", "fc", "features"]

    def forward(self, images):
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return batch_norm_rows(self.features, self.fc(x.reshape([-1, self.values])))


iresnet18 = partial(IResNet, (2, 2, 2, 2))
iresnet34 = partial(IResNet, (3, 4, 6, 3))
iresnet50 = partial(IResNet, (3, 4, 14, 3))
iresnet100 = partial(IResNet, (3, 13, 30, 3))
iresnet200 = partial(IResNet, (6, 26, 60, 6))
