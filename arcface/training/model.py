"""Model: backbone, head and their momentum SGD, and their arrays in a checkpoint."""

from collections.abc import Callable

import numpy as np
import paddle
from paddle import nn

from arcface.backbones import create_backbone
from arcface.backbones.layers import fuse_convolutions
from arcface.config import HeadOptions, NetworkOptions, OptimizerOptions
from arcface.distributed.process_group import all_reduce_sum, broadcast, world_size
from arcface.head.margins import Margin
from arcface.head.partial_fc import PartialFC
from arcface.io.images import normalise
from arcface.ops.build import load_library
from arcface.training.checkpoint import Arrays
from arcface.weights.state_dict import load_backbone


class Model:
    """Backbone (the same on every rank), head (this rank's classes) and their momentum SGD.

    With `may_drop`, `drop_gradients` can follow `forward_backward`: the running statistics are copied before each step.
    """

    def __init__(
        self,
        network: NetworkOptions,
        head: HeadOptions,
        optimizer: OptimizerOptions,
        num_classes: int,
        seed: int = 0,
        may_drop: bool = False,
    ):
        paddle.seed(seed)
        self._options, self._may_drop = optimizer, may_drop
        self.backbone = create_backbone(network.network, network.embedding_size, optimizer.batch_norm)
        margin = Margin(head.margin1, head.margin2, head.margin3)
        self.head = PartialFC(num_classes, network.embedding_size, margin, head.scale, head.sample_rate, seed)
        self._optimizer = paddle.optimizer.Momentum(
            momentum=optimizer.momentum,
            parameters=self.backbone.parameters(),
            weight_decay=optimizer.weight_decay,
            grad_clip=nn.ClipGradByGlobalNorm(optimizer.clip_norm) if optimizer.clip_norm else None,
        )
        # Of batch norm before this batch, each with its tensor.
        self._statistics: list[tuple[paddle.Tensor, paddle.Tensor]] = []
        _exchange(list(self.backbone.state_dict().values()), broadcast)  # initial values may differ between processors

    def use_cpu_kernels(self) -> None:
        """Train with the CPU kernels where the options and the device allow it; builds them unless they are in the cache."""
        if self._options.cpu_kernels == "auto" and paddle.get_device() == "cpu":
            self.head.library = load_library()
            if self._options.batch_norm == "local":
                fuse_convolutions(self.backbone, self.head.library)

    def forward_backward(self, images: paddle.Tensor, labels: paddle.Tensor, step: int) -> paddle.Tensor:
        """Take a batch (uint8 [n, 3, 112, 112] and int64 [n] of this rank) and return the mean loss of all ranks.

        `update` or `drop_gradients` has to follow.
        """
        if self._may_drop:
            self._statistics = [(tensor, tensor.clone()) for tensor in self._batch_norm_statistics()]
        loss = self.head.loss(self.backbone(normalise(images)), labels, step)
        loss.backward()
        # The loss is the mean over all ranks' images, so gradients add up. Not by DataParallel: it averages, and when a rank is
        # lost in its backward pass, Paddle aborts the others before they can say which.
        _exchange(list(self._gradients().values()), all_reduce_sum)
        return loss.detach()

    def update(self, lr: float) -> None:
        """Take a step of momentum SGD with the gradients."""
        self._optimizer.set_lr(lr)
        self._optimizer.step()
        self._optimizer.clear_grad()
        self.head.update(lr, self._options.momentum, self._options.weight_decay)

    def drop_gradients(self) -> None:
        """Leave everything, running statistics too, as it was before the batch; for models that `may_drop`."""
        self._optimizer.clear_grad()
        for tensor, before in self._statistics:
            tensor.set_value(before)

    @paddle.no_grad()
    def is_nonfinite(self, loss: paddle.Tensor) -> paddle.Tensor:
        """Return whether loss or a gradient of `forward_backward` is not finite, bool [], without waiting for the device.

        The head's gradient is finite if the loss is: it is a product of softmax and unit vectors.
        """
        return paddle.stack([tensor.isfinite().all() for tensor in (loss, *self._gradients().values())]).all().logical_not()

    @paddle.no_grad()
    def find_nonfinite(self, loss: paddle.Tensor) -> str | None:
        """Return what is not finite after `forward_backward`, None if all is.

        Causes come before their effects: weights, then the statistics that batch norm took in the forward pass, in the
        network's order, then the loss, then the gradients.
        """
        statistics = [item for item in self.backbone.state_dict().items() if item[1].stop_gradient]
        candidates = [
            *((f"the weight {name}", weight) for name, weight in self._trained()),
            ("a class centre", self.head.weight),
            *((f"the input of batch norm, {name}", statistic) for name, statistic in statistics),
            ("the loss", loss),
            *((f"the gradient of {name}", gradient) for name, gradient in self._gradients().items()),
        ]
        return next((name for name, tensor in candidates if not tensor.isfinite().all()), None)

    def broadcast_buffers(self) -> nn.Layer:
        """Give every rank the batch norm statistics of rank 0, which checkpoints contain; return the backbone."""
        _exchange(self._batch_norm_statistics(), broadcast)
        return self.backbone

    def state(self) -> Arrays:
        """Return the arrays of a checkpoint."""
        optimizer = self._optimizer.state_dict()
        velocity = {name: optimizer[_velocity_key(parameter)].numpy() for name, parameter in self._trained()}
        backbone = {name: tensor.numpy() for name, tensor in self.backbone.state_dict().items()}
        return Arrays(backbone, velocity, self.head.weight.numpy(), self.head.velocity.numpy())

    def load(self, state: Arrays, where: str) -> None:
        """Take over the arrays of a checkpoint; `where` is for messages."""
        load_backbone(self.backbone, state.backbone, where)
        self._optimizer.set_state_dict(
            {_velocity_key(parameter): paddle.to_tensor(state.backbone_velocity[name]) for name, parameter in self._trained()}
        )
        self.head.weight.set_value(np.ascontiguousarray(state.centres))
        self.head.velocity.set_value(np.ascontiguousarray(state.centres_velocity))

    def _batch_norm_statistics(self) -> list[paddle.Tensor]:
        return [tensor for tensor in self.backbone.state_dict().values() if tensor.stop_gradient]

    def _gradients(self) -> dict[str, paddle.Tensor]:
        return {name: parameter.grad for name, parameter in self._trained() if parameter.grad is not None}

    def _trained(self) -> list[tuple[str, paddle.Tensor]]:
        """The parameters that have gradients; Paddle counts the statistics of batch norm among the parameters."""
        return [item for item in self.backbone.named_parameters() if not item[1].stop_gradient]


@paddle.no_grad()
def _exchange(tensors: list[paddle.Tensor], collective: Callable[[paddle.Tensor], paddle.Tensor]) -> None:
    """Replace float32 tensors of any shapes, in place, by what a collective makes of all of them in one call."""
    if world_size() > 1 and tensors:
        flat = collective(paddle.concat([tensor.reshape([-1]) for tensor in tensors]))
        for tensor, values in zip(tensors, flat.split([tensor.size for tensor in tensors]), strict=True):
            paddle.assign(values.reshape(tensor.shape), tensor)


def _velocity_key(parameter: paddle.Tensor) -> str:
    """The velocity's name in an optimizer's state dict; parameters are numbered anew in each process."""
    return f"{parameter.name}_velocity_0"
