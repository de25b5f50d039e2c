"""MobileFaceNet (Chen et al., "MobileFaceNets", 2018, arXiv:1804.07573, table 1).

Sub-layers have the names of the 2021 toolkit (conv1, dw_conv1, blocks, conv2, linear7, linear1), so that its published
state dicts load unchanged.
"""

from functools import partial

from paddle import nn

from arcface.backbones.layers import Conv2D, FusedConvolutions, keep_float32, prelu
from arcface.backbones.recompute import RecomputableLayer

# (expansion, channels, repeats, stride of the first repeat) of bottlenecks of one shape
BOTTLENECKS = [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]


class ConvBlock(FusedConvolutions):
    """Convolution, batch norm and, unless linear, PReLU."""

    def __init__(
        self, channels_in, channels_out, kernel, stride=1, padding=0, depthwise=False, linear=False, batch_norm=nn.BatchNorm2D
    ):
        super().__init__(
            ("conv", Conv2D(channels_in, channels_out, kernel, stride, padding, depthwise)),
            ("bn", batch_norm(channels_out)),
            *([] if linear else [("prelu", prelu(channels_out))]),
        )


class Bottleneck(RecomputableLayer):
    """Inverted residual: expand 1x1, depthwise 3x3, project 1x1; the input is added if its shape is the output's."""

    def __init__(self, channels_in, channels_out, stride, expansion, batch_norm=nn.BatchNorm2D):
        super().__init__()
        inner = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        self.conv = FusedConvolutions(
            Conv2D(channels_in, inner, 1),
            batch_norm(inner),
            prelu(inner),
            Conv2D(inner, inner, 3, stride, 1, depthwise=True),
            batch_norm(inner),
            prelu(inner),
            Conv2D(inner, channels_out, 1),
            batch_norm(channels_out),
        )

    def forward(self, x):
        return self.conv(x, self.residual)


class MobileFaceNet(nn.Layer):
    """Maps normalised RGB images, float32 [N, 3, 112, 112], to embeddings, float32 [N, embedding_size].

    `batch_norm` creates a batch norm layer for a number of channels (see batch_norm.py).
    """

    def __init__(self, embedding_size=128, batch_norm=nn.BatchNorm2D):
        super().__init__()
        self.stages = {"stem": ["conv1", "dw_conv1"]}  # then a stage for each resolution of the bottlenecks
        conv_block = partial(ConvBlock, batch_norm=batch_norm)
        self.conv1 = conv_block(3, 64, 3, stride=2, padding=1)
        self.dw_conv1 = conv_block(64, 64, 3, padding=1, depthwise=True)
        blocks: list[nn.Layer] = []
        channels = 64
        for expansion, channels_out, repeats, first_stride in BOTTLENECKS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                if stride > 1:
                    stage = self.stages.setdefault(f"stage{len(self.stages)}", [])
                stage.append(f"blocks.{len(blocks)}")
                blocks.append(Bottleneck(channels, channels_out, stride, expansion, batch_norm))
                channels = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = conv_block(128, 512, 1)
        self.linear7 = keep_float32(conv_block(512, 512, 7, depthwise=True, linear=True))
        self.linear1 = keep_float32(conv_block(512, embedding_size, 1, linear=True))
        self.stages["embedding"] = ["conv2", "linear7", "linear1"]

    def forward(self, images):
        x = self.blocks(self.dw_conv1(self.conv1(images)))
        x = self.linear1(self.linear7(self.conv2(x)))
        return x.reshape([-1, x.shape[1]])  # not flatten(1), which OpenCV's DNN gets wrong in ONNX for batches above 1
