"""Batch norm is folded where it directly follows an affine layer, and the function stays the same."""

import numpy as np
import paddle
from paddle import nn

from arcface.inference.fold import fold_batch_norm


class Net(nn.Layer):
    """Every place that a batch norm can have: before, behind and apart from a convolution, and behind a linear layer."""

    def __init__(self):
        super().__init__()
        self.apart = nn.BatchNorm2D(4)  # registered beside its layer, called elsewhere
        self.stem = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4), nn.ReLU())
        self.first = nn.BatchNorm2D(4)
        self.depthwise = nn.Conv2D(4, 4, 3, stride=4, groups=4)  # with a bias
        self.second = nn.BatchNorm2D(4)
        self.linear = nn.Linear(4 * 27 * 27, 5)
        self.rows = nn.BatchNorm2D(5)

    def forward(self, images):
        x = self.second(self.depthwise(self.first(self.apart(self.stem(images)))))
        x = self.linear(x.reshape([-1, 4 * 27 * 27]))
        return self.rows(x.reshape([-1, 5, 1, 1])).reshape([-1, 5])


def test_batch_norm_behind_a_convolution_or_linear_layer_is_folded_and_the_rest_stays():
    paddle.seed(0)
    net = Net()
    rng = np.random.default_rng(0)
    for name, buffer in net.named_buffers():  # means far from 0, and variances far from 1, as trained ones are
        values = rng.uniform(0.01, 20, buffer.shape) if name.endswith("_variance") else rng.uniform(-30, 30, buffer.shape)
        buffer.set_value(values.astype(np.float32))
    for layer in net.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer.weight.set_value(rng.uniform(-2, 2, layer.weight.shape).astype(np.float32))
            layer.bias.set_value(rng.uniform(-5, 5, layer.bias.shape).astype(np.float32))
    net.eval()
    images = paddle.to_tensor(rng.uniform(-1, 1, (3, 3, 112, 112)).astype(np.float32))
    before = net(images).numpy()
    fold_batch_norm(net)
    assert [name for name, layer in net.named_sublayers() if isinstance(layer, nn.BatchNorm2D)] == ["apart", "first"]
    assert np.abs(net(images).numpy() - before).max() < 1e-5 * np.abs(before).max()
