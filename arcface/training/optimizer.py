"""Optimizers of the backbone: a step of all trained values at once, which are one vector."""

import paddle

from arcface.config import OptimizerOptions


class MomentumSGD:
    """v = momentum * v + gradient + weight_decay * w;  w = w - lr * v.

    weights: float32 [P], the vector that is trained in place.
    averages: by name, the float32 [P] that the optimizer keeps from step to step, which a checkpoint contains.
    """

    def __init__(self, options: OptimizerOptions, weights: paddle.Tensor):
        self._options, self._weights = options, weights
        self.averages = {"momentum": paddle.zeros_like(weights)}

    def step(self, gradient: paddle.Tensor, lr: float, finite: paddle.Tensor | None = None) -> None:
        """Take a step. `finite`, bool [1] on the device, is False for one that must change nothing; None is a finite step."""
        before, rate = self.averages["momentum"], lr
        velocity = before * self._options.momentum + (gradient + self._weights * self._options.weight_decay)
        if finite is not None:
            velocity, rate = where(finite, velocity, before), finite.astype("float32") * lr
        self.averages["momentum"] = velocity
        self._weights.subtract_(velocity * rate)


def where(condition: paddle.Tensor, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """Return x where the condition, bool [1], holds, else y."""
    return paddle.where(condition.expand_as(x), x, y)  # which Paddle 2.6 would do with 11 kernel calls
