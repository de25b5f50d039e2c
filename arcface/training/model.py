"""Model: backbone, head and their optimizers, and their arrays in a checkpoint."""

from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from arcface.backbones import create_backbone
from arcface.backbones.layers import fuse_convolutions
from arcface.backbones.precision import use_precision
from arcface.config import HeadOptions, NetworkOptions, OptimizerOptions
from arcface.distributed.process_group import all_reduce_sum, broadcast
from arcface.head.margins import Margin
from arcface.head.partial_fc import PartialFC
from arcface.io.images import normalise
from arcface.ops.build import load_library
from arcface.system.precision import tf32
from arcface.training.checkpoint import Arrays
from arcface.training.data import Batch
from arcface.training.flat import Flat
from arcface.training.optimizer import MomentumSGD, where
from arcface.weights.state_dict import as_arrays, load_backbone


class Computed(NamedTuple):
    """What a batch has given, on the device: vectors as of `Flat`, with P trained values and S running statistics."""

    loss: paddle.Tensor  # [], the mean of all ranks' images
    gradient: paddle.Tensor  # [P], of the backbone
    statistics: paddle.Tensor  # [S], after the forward pass
    statistics_before: paddle.Tensor  # [S]


class Model:
    """Backbone (the same on every rank), head (this rank's classes) and their optimizers.

    A step is `forward`, `backward`, then `update` or `drop`. None of them waits for the device.
    """

    def __init__(self, network: NetworkOptions, head: HeadOptions, optimizer: OptimizerOptions, num_classes: int, seed: int = 0):
        paddle.seed(seed)
        self._options, self._tf32 = optimizer, bool(optimizer.tf32)
        self.backbone = create_backbone(network.network, network.embedding_size, optimizer.batch_norm)
        use_precision(self.backbone, optimizer.precision)
        margin = Margin(head.margin1, head.margin2, head.margin3)
        self.head = PartialFC(num_classes, network.embedding_size, margin, head.scale, head.sample_rate, seed)
        # Paddle counts the statistics of batch norm among the parameters; they have no gradients.
        self._weights = Flat({name: tensor for name, tensor in self.backbone.named_parameters() if not tensor.stop_gradient})
        self._statistics = Flat({name: tensor for name, tensor in self.backbone.state_dict().items() if tensor.stop_gradient})
        self._optimizer = MomentumSGD(optimizer, self._weights.vector)
        self._statistics_before = self._statistics.vector
        self._updated = False
        for flat in (self._weights, self._statistics):
            broadcast(flat.vector)  # initial values may differ between processors

    def use_cpu_kernels(self) -> None:
        """Train with the CPU kernels where the options and the device allow it; builds them unless they are in the cache."""
        if self._options.cpu_kernels == "auto" and paddle.get_device() == "cpu":
            self.head.library = load_library()
            if self._options.batch_norm == "local" and self._options.precision == "float32":
                fuse_convolutions(self.backbone, self.head.library)

    def forward(self, batch: Batch, step: int) -> paddle.Tensor:
        """Return the mean loss of all ranks' images, of which this rank's are in the batch."""
        self._statistics_before = self._statistics.vector.clone()
        with tf32(self._tf32):
            embeddings = self.backbone(normalise(batch.images))
        return self.head.loss(embeddings, batch.labels, step, batch.listed)

    def backward(self, loss: paddle.Tensor, scale: float = 1.0) -> Computed:
        """Compute the gradients of a loss that `forward` has returned, times `scale` on their way through the backbone."""
        with tf32(self._tf32):  # of the head's gradient, only a product with the scale is left to compute
            loss.backward(None if scale == 1 else paddle.full_like(loss, scale))
        weights = self._weights.tensors
        # The loss is the mean over all ranks' images, so gradients add up. Not by DataParallel: it averages, and when a rank is
        # lost in its backward pass, Paddle aborts the others before they can say which.
        gradient = all_reduce_sum(self._weights.gather({name: weight.grad for name, weight in weights.items()}))
        for weight in weights.values():
            weight.clear_gradient(False)  # frees it
        if scale != 1:
            gradient = gradient / scale
        # A copy: what is not finite may be looked for when the vector holds those of the next batch.
        return Computed(loss.detach(), gradient, self._statistics.vector.clone(), self._statistics_before)

    @paddle.no_grad()
    def update(self, computed: Computed, lr: float, finite: paddle.Tensor | None = None) -> None:
        """Take a step of the optimizers.

        `finite`, bool [1], is False for a step that must leave everything as it was before its batch, running statistics too;
        without it, the step is known to be finite.
        """
        if not self._updated:
            self._check_shared()
            self._updated = True
        if finite is not None:
            statistics = self._statistics.vector
            paddle.assign(where(finite, statistics, computed.statistics_before), statistics)
        self._optimizer.step(self._clipped(computed.gradient), lr, finite)
        self.head.update(lr, self._options.momentum, self._options.weight_decay, finite)

    def drop(self) -> None:
        """Leave everything, running statistics too, as it was before the last `forward`."""
        paddle.assign(self._statistics_before, self._statistics.vector)

    @paddle.no_grad()
    def is_finite(self, computed: Computed) -> paddle.Tensor:
        """Return whether loss and gradient are finite, bool [1], on the device.

        The head's gradient is finite if the loss is: it is a product of softmax and unit vectors.
        """
        return paddle.logical_and(computed.gradient.isfinite().all(keepdim=True), computed.loss.isfinite())

    @paddle.no_grad()
    def find_nonfinite(self, computed: Computed) -> str | None:
        """Return what is not finite after `backward`, None if all is; the weights must be those of that batch.

        Causes come before their effects: weights, then the statistics that batch norm took in the forward pass, in the
        network's order, then the loss, then the gradients.
        """
        statistics, gradients = self._statistics.parts(computed.statistics), self._weights.parts(computed.gradient)
        candidates = [
            *((f"the weight {name}", weight) for name, weight in self._weights.tensors.items()),
            ("a class centre", self.head.weight),
            *((f"the input of batch norm, {name}", statistic) for name, statistic in statistics.items()),
            ("the loss", computed.loss),
            *((f"the gradient of {name}", gradient) for name, gradient in gradients.items()),
        ]
        return next((name for name, tensor in candidates if not tensor.isfinite().all()), None)

    def broadcast_buffers(self) -> nn.Layer:
        """Give every rank the batch norm statistics of rank 0, which checkpoints contain; return the backbone."""
        broadcast(self._statistics.vector)
        return self.backbone

    def state(self) -> Arrays:
        """Return the arrays of a checkpoint."""
        self._check_shared()
        averages = {name: as_arrays(self._weights.parts(vector)) for name, vector in self._optimizer.averages.items()}
        return Arrays(as_arrays(self.backbone.state_dict()), averages, self.head.weight.numpy(), self.head.velocity.numpy())

    def load(self, state: Arrays, where: str) -> None:
        """Take over the arrays of a checkpoint; `where` is for messages."""
        load_backbone(self.backbone, state.backbone, where)
        for average, vector in self._optimizer.averages.items():
            for name, part in self._weights.parts(vector).items():
                paddle.assign(state.averages[average][name], part)
        self.head.weight.set_value(np.ascontiguousarray(state.centres))
        self.head.velocity.set_value(np.ascontiguousarray(state.centres_velocity))

    def _check_shared(self) -> None:
        if not (self._weights.is_shared() and self._statistics.is_shared()):
            raise RuntimeError("a layer of the backbone has replaced a tensor, which is then not trained")

    def _clipped(self, gradient: paddle.Tensor) -> paddle.Tensor:
        if not self._options.clip_norm:
            return gradient
        norm = gradient.square().sum().sqrt()
        return gradient * (self._options.clip_norm / norm.clip(min=self._options.clip_norm))
