"""Model: backbone, head and their optimizers, and their arrays in a checkpoint."""

from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from arcface.backbones import create_backbone
from arcface.backbones.layers import fuse_convolutions
from arcface.backbones.precision import use_precision
from arcface.backbones.recompute import recomputable_blocks
from arcface.backbones.stages import freeze, stages_named
from arcface.config import HeadOptions, NetworkOptions, OptimizerOptions
from arcface.distributed.process_group import all_reduce_sum, broadcast, world_size
from arcface.errors import UserError
from arcface.head.margins import Margin
from arcface.head.partial_fc import PartialFC
from arcface.io.images import normalise
from arcface.ops.build import load_library
from arcface.system.precision import tf32
from arcface.training.checkpoint import Arrays
from arcface.training.data import Batch
from arcface.training.ema import AveragedBackbone
from arcface.training.flat import Flat
from arcface.training.optimizer import OPTIMIZERS, where
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
    trained_of: how many of the backbone's values are trained, and how many would be without --freeze.
    """

    def __init__(self, network: NetworkOptions, head: HeadOptions, optimizer: OptimizerOptions, num_classes: int, seed: int = 0):
        check_parts(optimizer, world_size())
        paddle.seed(seed)
        self._options, self._tf32 = optimizer, bool(optimizer.tf32)
        self.backbone = create_backbone(network.network, network.embedding_size, optimizer.batch_norm)
        use_precision(self.backbone, optimizer.precision)
        margin = Margin(head.margin1, head.margin2, head.margin3)
        self.head = PartialFC(num_classes, network.embedding_size, margin, head.scale, head.sample_rate, seed)
        state = self.backbone.state_dict()
        trainable = sum(tensor.size for tensor in state.values() if not tensor.stop_gradient)
        frozen = freeze(self.backbone, stages_named(optimizer.freeze, self.backbone))
        # Paddle counts the statistics of batch norm among the parameters; they have no gradients.
        self._weights = Flat({name: tensor for name, tensor in self.backbone.named_parameters() if not tensor.stop_gradient})
        self._statistics = Flat({name: state[name] for name in state if state[name].stop_gradient and name not in frozen})
        self._frozen = Flat({name: state[name] for name in frozen})
        self.trained_of = sum(tensor.size for tensor in self._weights.tensors.values()), trainable
        self._optimizer = OPTIMIZERS[optimizer.optimizer](optimizer, self._weights)
        self._statistics_before = self._statistics.vector
        self._head_decay = optimizer.weight_decay if optimizer.head_weight_decay is None else optimizer.head_weight_decay
        self._updated = False
        for flat in (self._weights, self._statistics, self._frozen):
            broadcast(flat.vector)  # initial values may differ between processors
        for block in recomputable_blocks(self.backbone):
            block.recompute = bool(optimizer.recompute)
        self.average: AveragedBackbone | None = None
        if optimizer.ema:
            averaged = create_backbone(network.network, network.embedding_size)
            self.average = AveragedBackbone(averaged, optimizer.ema, self.backbone, (self._weights, self._statistics, self._frozen))

    def use_cpu_kernels(self) -> None:
        """Train with the CPU kernels where the options and the device allow it; builds them unless they are in the cache."""
        if self._options.cpu_kernels == "auto" and paddle.get_device() == "cpu":
            self.head.library = load_library()
            if self._options.batch_norm == "local" and self._options.precision == "float32":
                fuse_convolutions(self.backbone, self.head.library)

    def forward(self, batch: Batch, step: int) -> paddle.Tensor:
        """Return the mean loss of all ranks' images, of which this rank's are in the batch.

        With --accumulate, return the part of it that the first images have: `backward` computes the other parts.
        """
        self._statistics_before = self._statistics.vector.clone()
        self._losses = (self._loss_of_part(batch, step, part) for part in range(self._options.accumulate))
        return next(self._losses)

    def _loss_of_part(self, batch: Batch, step: int, part: int) -> paddle.Tensor:
        parts = self._options.accumulate
        rows = len(batch.images) // parts
        images = batch.images[part * rows : (part + 1) * rows] if parts > 1 else batch.images
        with tf32(self._tf32):
            embeddings = self.backbone(normalise(images))
        return self.head.loss(embeddings, batch.labels, step, batch.listed, part, parts)

    def backward(self, loss: paddle.Tensor, scale: float = 1.0) -> Computed:
        """Compute the gradients of a step, given the loss that `forward` has returned.

        They pass through the backbone times `scale`.
        """
        total, gradient = loss.detach(), self._gradient(loss, scale)
        del loss  # with whose graph activations would stay while the next part is computed
        for loss in self._losses:
            total = total + loss.detach()
            gradient.add_(self._gradient(loss, scale))
            del loss
        # The loss is the mean over all ranks' images, so gradients add up. Not by DataParallel: it averages, and when a rank is
        # lost in its backward pass, Paddle aborts the others before they can say which.
        gradient = all_reduce_sum(gradient)
        if scale != 1:
            gradient = gradient / scale
        # A copy: what is not finite may be looked for when the vector holds those of the next batch.
        return Computed(total, gradient, self._statistics.vector.clone(), self._statistics_before)

    def _gradient(self, loss: paddle.Tensor, scale: float) -> paddle.Tensor:
        """Return the gradient of a part's loss, float32 [P], times `scale`; the layers' own are freed, for the next part's sake."""
        statistics, weights = self._statistics.vector, self._weights.tensors
        after_forward = statistics.clone() if self._options.recompute else None
        with tf32(self._tf32):  # of the head's gradient, only a product with the scale is left to compute
            # Does nothing where all of the backbone is frozen.
            loss.backward(None if scale == 1 else paddle.full_like(loss, scale))
        if after_forward is not None:  # blocks that were computed again have updated them again
            paddle.assign(after_forward, statistics)
        gradient = self._weights.gather({name: weight.grad for name, weight in weights.items()})
        for weight in weights.values():
            weight.clear_gradient(False)  # frees it
        return gradient

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
        self.head.update(lr * self._options.head_lr_scale, self._options.momentum, self._head_decay, finite)
        if self.average:
            self.average.update(finite)

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
        """Give every rank the batch norm statistics of rank 0, which checkpoints contain; return the backbone to verify.

        With --ema, that is the averaged one.
        """
        broadcast(self._statistics.vector)
        return self.average.broadcast_buffers() if self.average else self.backbone

    def state(self) -> Arrays:
        """Return the arrays of a checkpoint."""
        self._check_shared()
        averages = self._optimizer.state()
        if self.average:
            averages["ema"] = as_arrays(self.average.backbone.state_dict())
        return Arrays(as_arrays(self.backbone.state_dict()), averages, self.head.weight.numpy(), self.head.velocity.numpy())

    def start_from(self, weights: dict[str, np.ndarray], where: str) -> None:
        """Take over the weights of a trained backbone, with a new head; `where` is for messages."""
        load_backbone(self.backbone, weights, where)
        if self.average:
            self.average.start()

    def load(self, state: Arrays, where: str) -> list[str]:
        """Take over the arrays of a checkpoint; `where` is for messages. Return what it lacks and starts anew, in words."""
        load_backbone(self.backbone, state.backbone, where)
        self.head.weight.set_value(np.ascontiguousarray(state.centres))
        self.head.velocity.set_value(np.ascontiguousarray(state.centres_velocity))
        missing = [lacking] if (lacking := self._optimizer.load(state.averages)) else []
        if self.average and "ema" in state.averages:
            load_backbone(self.average.backbone, state.averages["ema"], where)
        elif self.average:
            self.average.start()
            missing.append("the averaged backbone")
        return missing

    def _check_shared(self) -> None:
        if not (self._weights.is_shared() and self._statistics.is_shared()):
            raise RuntimeError("a layer of the backbone has replaced a tensor, which is then not trained")

    def _clipped(self, gradient: paddle.Tensor) -> paddle.Tensor:
        if not self._options.clip_norm:
            return gradient
        norm = gradient.square().sum().sqrt()
        return gradient * (self._options.clip_norm / norm.clip(min=self._options.clip_norm))


def check_parts(options: OptimizerOptions, ranks: int) -> None:
    """Raise UserError if a rank's images cannot be computed in --accumulate equal parts."""
    images, parts = options.batch_size // ranks, options.accumulate
    if images % parts:
        fitting = next(fewer for fewer in range(parts, 0, -1) if images % fewer == 0)
        raise UserError(f"--accumulate {parts}: must divide the {images} images of --batch_size that a rank has; use {fitting}")
