"""Batch norm is folded where it directly follows an affine layer, and the function stays the same."""

import numpy as np
import paddle
from paddle import nn

from arcface.inference.fold import fold_batch_norm


class Net(nn.Layer):
    """Every place that a batch norm can have: before, behind, nearly behind and apart from a convolution; behind a linear layer."""

    def __init__(self):
        super().__init__()
        self.apart = nn.BatchNorm2D(4)  # registered beside its layer, called elsewhere
        self.stem = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4), nn.ReLU())
        self.first = nn.BatchNorm2D(4)
        self.depthwise = nn.Conv2D(4, 4, 3, stride=2, groups=4)  # with a bias
        self.second = nn.BatchNorm2D(4)
        self.pointwise = nn.Conv2D(4, 4, 1, stride=2)
        self.clipped = nn.BatchNorm2D(4)  # a function, not a layer, is between the two
        self.linear = nn.Linear(4 * 27 * 27, 5)
        self.rows = nn.BatchNorm2D(5)

    def forward(self, images):
        x = self.second(self.depthwise(self.first(self.apart(self.stem(images)))))
        x = self.clipped(nn.functional.relu(self.pointwise(x)))
        x = self.linear(x.reshape([-1, 4 * 27 * 27]))
        return self.rows(x.reshape([-1, 5, 1, 1])).reshape([-1, 5])


def test_batch_norm_behind_a_convolution_or_linear_layer_is_folded_and_the_rest_stays():
    paddle.seed(0)
    net = Net()
    rng = np.random.default_rng(0)
    for name, tensor in net.state_dict().items():  # means far from 0, and variances far from 1, as trained ones are
        low, high = (0.01, 20) if name.endswith("_variance") else (-30, 30) if name.endswith("_mean") else (-2, 2)
        tensor.set_value(rng.uniform(low, high, tensor.shape).astype(np.float32))
    net.eval()
    images = paddle.to_tensor(rng.uniform(-1, 1, (3, 3, 112, 112)).astype(np.float32))
    before = net(images).numpy()
    fold_batch_norm(net)
    left = {name for name, layer in net.named_sublayers() if isinstance(layer, nn.BatchNorm2D)}
    assert left == {"apart", "first", "clipped"}
    assert np.abs(net(images).numpy() - before).max() < 1e-5 * np.abs(before).max()
