"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass

from arcface.config import OptimizerOptions

REFERENCE_BATCH_SIZE = 512  # the batch size that --lr is meant for


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a fall of the rate from its peak.

    Calling it with a step (0, 1, ...) gives the rate of that step's update. `steps_per_epoch` turns the options'
    epochs into steps. With `left`, the share of the steps after the warm-up that are not yet done, from 1 to 0:

        step      peak * decay_rate^(number of decay_epochs that are over)
        poly      peak * left^poly_power
        cosine    peak * (1 - cos(pi * left)) / 2, without restarts (Loshchilov and Hutter 2017, arXiv:1608.03983)
    """

    options: OptimizerOptions
    steps_per_epoch: int

    @property
    def peak(self) -> float:
        """The rate after the warm-up: --lr scaled to the batch size (Goyal et al. 2017, arXiv:1706.02677)."""
        return self.options.lr * self.options.batch_size / REFERENCE_BATCH_SIZE

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.options.num_epoch * self.steps_per_epoch

    def __call__(self, step: int) -> float:
        warmup_steps = round(self.options.warmup_epoch * self.steps_per_epoch)
        if step < warmup_steps:
            return self.peak * (step + 1) / warmup_steps
        if self.options.schedule == "step":
            decays = sum(step >= epoch * self.steps_per_epoch for epoch in self.options.decay_epochs)
            return self.peak * self.options.decay_rate**decays
        left = max(0.0, (self.total_steps - step) / (self.total_steps - warmup_steps))
        if self.options.schedule == "poly":
            return self.peak * left**self.options.poly_power
        return self.peak * (1 - math.cos(math.pi * left)) / 2
