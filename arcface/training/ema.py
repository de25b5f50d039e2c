"""The averaged backbone: an exponential moving average of a backbone over the steps of its training."""

from collections.abc import Sequence

import paddle
from paddle import nn

from arcface.distributed.process_group import broadcast
from arcface.training.flat import Flat


class AveragedBackbone:
    """average = decay * average + (1 - decay) * value, of all weights and, as in timm's ModelEmaV2, of batch norm's statistics.

    It begins with the values of `start`, so it is of use once some 1 / (1 - decay) steps were taken.

    backbone: whose tensors become the average; of the same network as `trained`. parts: all tensors of `trained`, by the names of
    its state dict; also frozen ones, which the run before may have trained.
    """

    def __init__(self, backbone: nn.Layer, decay: float, trained: nn.Layer, parts: Sequence[Flat]):
        self.backbone, self._trained = backbone, trained
        state = backbone.state_dict()
        averages = [Flat({name: state[name] for name in flat.tensors}) for flat in parts]
        self._pairs = [(average.vector, flat.vector) for average, flat in zip(averages, parts, strict=True) if flat.tensors]
        self._rate = paddle.full([1], 1 - decay)
        self.start()

    @paddle.no_grad()
    def start(self) -> None:
        """Let the average be what the trained backbone is now."""
        values = self._trained.state_dict()
        for name, average in self.backbone.state_dict().items():
            paddle.assign(values[name], average)

    def broadcast_buffers(self) -> nn.Layer:
        """Give every rank the average of rank 0; return the backbone. Only the statistics of batch norm may differ."""
        for average, _ in self._pairs:
            broadcast(average)
        return self.backbone

    @paddle.no_grad()
    def update(self, finite: paddle.Tensor | None = None) -> None:
        """Add a step's result. `finite`, bool [1] on the device, is False for a step that must change nothing; None is finite."""
        rate = self._rate if finite is None else finite.astype("float32") * self._rate
        for average, value in self._pairs:
            average.lerp_(value, rate)
