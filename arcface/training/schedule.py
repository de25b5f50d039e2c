"""The learning rate as a pure function of the step."""

from dataclasses import dataclass

from arcface.config import OptimizerOptions

REFERENCE_BATCH_SIZE = 512  # the batch size that --lr is meant for


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then decay by steps or as a polynomial.

    Calling it with a step (0, 1, ...) gives the rate of that step's update. `steps_per_epoch` turns the options'
    epochs into steps.
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
        if self.options.schedule == "poly":
            left = (self.total_steps - step) / (self.total_steps - warmup_steps)
            return self.peak * max(0.0, left) ** self.options.poly_power
        decays = sum(step >= epoch * self.steps_per_epoch for epoch in self.options.decay_epochs)
        return self.peak * self.options.decay_rate**decays
