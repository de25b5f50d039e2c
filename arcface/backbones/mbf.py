"""InsightFace's MobileFaceNets, as arcface_torch has them: wider or deeper than MobileFaceNet_128, with other layer names.

Chen et al., "MobileFaceNets", 2018, arXiv:1804.07573, with embeddings from a linear layer. Sub-layers have arcface_torch's names.
Its depthwise convolutions start from values that count all channels as their fan; these start from He's with the true one.
"""

from functools import partial

from paddle import nn

from arcface.backbones.layers import Conv2D, FusedConvolutions, batch_norm_rows, keep_float32, linear, prelu
from arcface.backbones.recompute import RecomputableLayer

FINAL_CHANNELS = 512


class ConvBlock(nn.Layer):
    """Convolution, batch norm and, unless linear, PReLU; `how` is the convolution's: stride, padding, depthwise, groups."""

    def __init__(self, channels_in, channels_out, kernel, batch_norm, linear=False, **how):
        super().__init__()
        layers = [Conv2D(channels_in, channels_out, kernel, **how), batch_norm(channels_out)]
        self.layers = FusedConvolutions(*layers, *([] if linear else [prelu(channels_out)]))

    def forward(self, x):
        return self.layers(x)


class DepthWise(RecomputableLayer):
    """Expand to `inner` channels 1x1, filter each 3x3, project 1x1; `residual` adds the input."""

    def __init__(self, channels_in, inner, channels_out, stride, residual, batch_norm):
        super().__init__()
        self.residual = residual
        self.layers = FusedConvolutions(
            ConvBlock(channels_in, inner, 1, batch_norm),
            ConvBlock(inner, inner, 3, batch_norm, stride=stride, padding=1, depthwise=True),
            ConvBlock(inner, channels_out, 1, batch_norm, linear=True),
        )

    def forward(self, x):
        return self.layers(x, self.residual)


class Residual(nn.Layer):
    """Several depthwise blocks of one shape, each with its input added."""

    def __init__(self, channels, inner, repeats, batch_norm):
        super().__init__()
        self.layers = nn.Sequential(*(DepthWise(channels, inner, channels, 1, True, batch_norm) for _ in range(repeats)))

    def forward(self, x):
        return self.layers(x)


class GlobalDepthWise(nn.Layer):
    """A 7x7 filter for each channel, a linear layer and batch norm: [N, 512, 7, 7] to embeddings [N, embedding_size]."""

    def __init__(self, embedding_size, batch_norm):
        super().__init__()
        self.layers = nn.Sequential(  # "1" flattens in arcface_torch
            ("0", ConvBlock(FINAL_CHANNELS, FINAL_CHANNELS, 7, batch_norm, linear=True, depthwise=True)),
            ("2", linear(FINAL_CHANNELS, embedding_size, bias=False)),
            ("3", batch_norm(embedding_size)),
        )

    def forward(self, x):
        convolution, projection, norm = self.layers.children()
        return batch_norm_rows(norm, projection(convolution(x).reshape([-1, FINAL_CHANNELS])))


class MobileFaceNet(nn.Layer):
    """Maps normalised RGB images, float32 [N, 3, 112, 112], to embeddings, float32 [N, embedding_size].

    `repeats` are the blocks of its four resolutions that add their input; `width` its channels at first, which double later.
    `batch_norm` creates a batch norm layer for a number of channels (see batch_norm.py).
    """

    def __init__(self, repeats, width, embedding_size=512, batch_norm=nn.BatchNorm2D):
        super().__init__()
        self.stages = {
            "stem": ["layers.0"],
            "stage1": ["layers.1"],
            **{f"stage{stage}": [f"layers.{2 * stage - 2}", f"layers.{2 * stage - 1}"] for stage in (2, 3, 4)},
            "embedding": ["conv_sep", "features"],
        }
        if repeats[0] == 1:  # arcface_torch's 64 groups are depthwise at its first width only
            second = ConvBlock(width, width, 3, batch_norm, padding=1, groups=64)
        else:
            second = Residual(width, 128, repeats[0], batch_norm)
        self.layers = nn.Sequential(
            ConvBlock(3, width, 3, batch_norm, stride=2, padding=1),
            second,
            DepthWise(width, 128, width, 2, False, batch_norm),
            Residual(width, 128, repeats[1], batch_norm),
            DepthWise(width, 256, 2 * width, 2, False, batch_norm),
            Residual(2 * width, 256, repeats[2], batch_norm),
            DepthWise(2 * width, 512, 2 * width, 2, False, batch_norm),
            Residual(2 * width, 256, repeats[3], batch_norm),
        )
        self.conv_sep = ConvBlock(2 * width, FINAL_CHANNELS, 1, batch_norm)
        self.features = keep_float32(GlobalDepthWise(embedding_size, batch_norm))

    def forward(self, images):
        return self.features(self.conv_sep(self.layers(images)))


mbf = partial(MobileFaceNet, (1, 4, 6, 2), 128)
mbf_large = partial(MobileFaceNet, (2, 8, 12, 4), 256)
