"""Optimizers of the backbone: a step of all trained values at once, which are one vector."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import paddle

from arcface.config import OptimizerOptions
from arcface.training.flat import Flat
from arcface.weights.state_dict import as_arrays

EPSILON = 1e-8  # of AdamW, as in PyTorch and Paddle


class Optimizer(ABC):
    """Trains weights in place, and keeps averages of their gradients from step to step, which a checkpoint contains.

    averages: by name, float32 [P] as of `Flat`, with P trained values.
    """

    kept: ClassVar[tuple[str, ...]]  # the averages' names
    words: ClassVar[str]  # for them together

    def __init__(self, options: OptimizerOptions, weights: Flat):
        self._options, self._weights = options, weights
        self.averages = {name: paddle.zeros_like(weights.vector) for name in self.kept}

    @abstractmethod
    def step(self, gradient: paddle.Tensor, lr: float, finite: paddle.Tensor | None = None) -> None:
        """Take a step. `finite`, bool [1] on the device, is False for one that must change nothing; None is a finite step."""

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Return what is kept, by the names of the average and of the parameter."""
        return {name: as_arrays(self._weights.parts(vector)) for name, vector in self.averages.items()}

    def load(self, state: dict[str, dict[str, np.ndarray]]) -> str | None:
        """Take over what a checkpoint contains; return in words what it lacks, which starts from 0.

        It lacks the averages of parameters that were frozen in the run that wrote it, and all that another optimizer keeps.
        """
        for average, vector in self.averages.items():
            for name, part in self._weights.parts(vector).items():
                if name in state.get(average, {}):
                    paddle.assign(state[average][name], part)
        known = state.get(self.kept[0], {})
        lacking, trained = len(self._weights.tensors.keys() - known.keys()), len(self._weights.tensors)
        return f"{self.words} of {lacking} of {trained} trained tensors" if lacking else None

    def _update(self, new: dict[str, paddle.Tensor], finite: paddle.Tensor | None) -> None:
        """Replace the averages, unless the step is not finite."""
        if finite is not None:
            new = {name: where(finite, vector, self.averages[name]) for name, vector in new.items()}
        self.averages = new


class MomentumSGD(Optimizer):
    """v = momentum * v + gradient + weight_decay * w;  w = w - lr * v."""

    kept = ("momentum",)
    words = "the momentum"

    def step(self, gradient, lr, finite=None):
        w = self._weights.vector
        velocity = self.averages["momentum"] * self._options.momentum + (gradient + w * self._options.weight_decay)
        self._update({"momentum": velocity}, finite)
        w.subtract_(self.averages["momentum"] * _rate(lr, finite))


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), of all weights, as in arcface_torch.

    m = b1 * m + (1 - b1) * gradient;  v = b2 * v + (1 - b2) * gradient^2, with b1 = momentum and b2 = adam_beta2
    w = w - lr * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + EPSILON) + weight_decay * w), in the step t of this weight, from 1

    A checkpoint contains m, v and t of each parameter: those that are frozen at first start with t = 1 later.
    """

    kept = ("first_moment", "second_moment")
    words = "AdamW's moments"

    def __init__(self, options: OptimizerOptions, weights: Flat):
        super().__init__(options, weights)
        self._steps = paddle.zeros([1])  # taken so far; [P] where parameters have taken different numbers

    def step(self, gradient, lr, finite=None):
        w, b1, b2 = self._weights.vector, self._options.momentum, self._options.adam_beta2
        first, second = (self.averages[name] for name in self.kept)
        moments = first * b1 + gradient * (1 - b1), second * b2 + gradient.square() * (1 - b2)
        self._update(dict(zip(self.kept, moments, strict=True)), finite)
        first, second = (self.averages[name] for name in self.kept)
        t = self._steps + 1  # from 1 up also in a step that is not taken: 0 / 0 would be NaN
        ratio = first / _share(b1, t) / ((second / _share(b2, t)).sqrt() + EPSILON)
        w.subtract_((ratio + w * self._options.weight_decay) * _rate(lr, finite))
        self._steps = self._steps + (1.0 if finite is None else finite.astype("float32"))

    def state(self):
        steps = self._weights.parts(self._steps.expand_as(self._weights.vector))
        return super().state() | {"steps": as_arrays({name: part.flatten()[:1] for name, part in steps.items()})}

    def load(self, state):
        steps = {name: float(state.get("steps", {}).get(name, [0])[0]) for name in self._weights.tensors}
        if len(set(steps.values())) > 1:
            of_each = {name: paddle.full(tensor.shape, steps[name]) for name, tensor in self._weights.tensors.items()}
            self._steps = self._weights.gather(of_each)
        else:
            self._steps = paddle.full([1], max(steps.values(), default=0.0))
        return super().load(state)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": MomentumSGD, "adamw": AdamW}


def where(condition: paddle.Tensor, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """Return x where the condition, bool [1], holds, else y."""
    return paddle.where(condition.expand_as(x), x, y)  # which Paddle 2.6 would do with 11 kernel calls


def _rate(lr: float, finite: paddle.Tensor | None) -> float | paddle.Tensor:
    """Return the learning rate, 0 for a step that is not finite."""
    return lr if finite is None else finite.astype("float32") * lr


def _share(beta: float, t: paddle.Tensor) -> paddle.Tensor:
    """Return 1 - beta^t, what t gradients have in an average that started from 0."""
    return -paddle.expm1(t * math.log(beta)) if beta else paddle.ones_like(t)  # in float32, 1 - 0.999 has lost four digits
