"""Counts of backbones: by hand for single layers, and as PyTorch's counter has them for whole networks."""

from backbone_params import smallest_backbones
from paddle import nn

from arcface.backbones import create_backbone
from arcface.backbones.counts import Counts, count
from arcface.backbones.layers import Conv2D, linear

# torch.utils.flop_counter.FlopCounterMode on the nets of tests/helpers/torch_nets.py, PyTorch 2.13; embeddings of 512
MULTIPLY_ADDS = {"MobileFaceNet_128": 221_161_984, "iresnet18": 2_609_954_816, "mbf": 437_520_896, "vit_t": 1_504_882_688}


class Layers(nn.Layer):
    """One layer of each kind that is counted by its weight."""

    def __init__(self):
        super().__init__()
        self.conv = Conv2D(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.depthwise = Conv2D(8, 8, 5, stride=4, depthwise=True)
        self.linear = linear(8 * 13 * 13, 10)

    def forward(self, images):
        return self.linear(self.depthwise(self.norm(self.conv(images))).reshape([-1, 8 * 13 * 13]))


def test_layers_have_the_counts_worked_out_by_hand():
    convolution, depthwise, projection = 56 * 56 * 8 * (3 * 3 * 3), 13 * 13 * 8 * (5 * 5), 8 * 13 * 13 * 10
    parameters = 3 * 3 * 3 * 8 + 2 * 8 + 5 * 5 * 8 + 8 * 13 * 13 * 10 + 10  # the norm's running statistics are none
    assert count(Layers()) == Counts(parameters, convolution + depthwise + projection, 56 * 56 * 8 + 13 * 13 * 8 + 10)


def test_whole_networks_have_the_multiply_adds_that_pytorch_counts():
    assert {name: count(create_backbone(name, 512)).multiply_adds for name in smallest_backbones()} == MULTIPLY_ADDS
