"""Loss scale: what gradients are multiplied by on their way through a float16 backbone, which holds nothing below 6e-8.

One scale for all ranks, which adapts (Micikevicius et al. 2018, arXiv:1710.03740): an overflow halves it, and that step is not
taken; after many steps without one it doubles, up to a limit. The host knows it before each backward pass, also on a GPU, where it
reads how the step before ended between forward and backward pass.
"""

from arcface.distributed.process_group import rank
from arcface.io.log import logger
from arcface.training.state import TrainState

LEAST = 1.0
GREATEST = 2.0**24  # without it, a scale that nothing overflows with, as where all is frozen, would outgrow float32
STEPS_TO_DOUBLE = 2000


class LossScale:
    """The loss scale of a run, kept in its state: `loss_scale`, and `steps_at_scale`, taken since it changed.

    Not `used`, it is 1 and stays so.
    """

    def __init__(self, state: TrainState, used: bool):
        self._state, self._used = state, used

    @property
    def value(self) -> float:
        """The scale of the next backward pass."""
        return self._state.loss_scale if self._used else 1.0

    def adapt(self, step: int, finite: bool) -> bool:
        """Adapt to how a step, counted from 1, ended; return whether a smaller scale may make up for one that is not finite."""
        state = self._state
        if not self._used or not finite and state.loss_scale <= LEAST:
            return False
        state.steps_at_scale = state.steps_at_scale + 1 if finite else 0
        if not finite:
            state.loss_scale /= 2
            if rank() == 0:
                logger.info("overflow in fp16 at step %d, which was not taken; loss scale %g from now on", step, state.loss_scale)
        elif state.steps_at_scale == STEPS_TO_DOUBLE:
            state.loss_scale, state.steps_at_scale = min(2 * state.loss_scale, GREATEST), 0
        return not finite
