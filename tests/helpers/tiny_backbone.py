"""A backbone that costs nothing, registered as "Tiny" on import: for tests whose promise is not about a network."""

import math

import paddle
from paddle import nn

from arcface.backbones import BACKBONES
from arcface.backbones.mobilefacenet import ConvBlock


class Tiny(nn.Layer):
    """A convolution block and a linear layer; images [N, 3, 112, 112] to embeddings [N, embedding_size]."""

    def __init__(self, embedding_size=128, batch_norm=nn.BatchNorm2D):
        super().__init__()
        self.block = ConvBlock(3, 8, 7, stride=7, batch_norm=batch_norm)
        initial = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, math.sqrt(2 / 128)))
        self.linear = nn.Linear(128, embedding_size, weight_attr=initial)

    def forward(self, images):
        return self.linear(nn.functional.avg_pool2d(self.block(images), 4).flatten(1))


BACKBONES["Tiny"] = Tiny
