"""Steps: takes the steps of a run and finds out how each ended; the one place where a CPU and a GPU train in another order.

    CPU    forward, backward, read the request, then update or drop
    GPU    forward, read the request of the step before, backward, update where all is finite

With --accumulate, `forward` is that of a step's first part, and backward computes the others.

A GPU works on what is queued. The host waits for it once a step, and then there is a forward pass that it can go on with.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle

from arcface.config import TrainConfig
from arcface.distributed.process_group import world_size
from arcface.errors import UserError
from arcface.system.transfer import to_host
from arcface.training.data import Batch, TrainingData
from arcface.training.loss_scale import LossScale
from arcface.training.model import Computed, Model
from arcface.training.nonfinite import skip_or_stop
from arcface.training.signals import Request, Signals
from arcface.training.state import TrainState


class _Queued(NamedTuple):
    """A step whose request is still to be read."""

    step: int  # counted from 1
    lr: float
    computed: Computed
    summed: Callable[[], np.ndarray]  # waits for what `Signals.sync` returned


class Steps:
    """Takes the optimizers' steps; a step that is not finite on some rank changes nothing.

    With `run_ahead`, the order is that of a GPU: what a step asks for is found one step later, unless it is needed at once.
    """

    def __init__(
        self, options: TrainConfig, model: Model, signals: Signals, data: TrainingData, state: TrainState, run_ahead: bool
    ):
        self._options, self._model, self._signals, self._data, self._state = options, model, signals, data, state
        self._loss_scale = LossScale(state, used=options.precision == "fp16")
        self._run_ahead = run_ahead
        self._queued: _Queued | None = None

    def take(self, batch: Batch, lr: float, ends_now: bool) -> tuple[paddle.Tensor, Request]:
        """Take the step after state.step; return its loss [1] or [], 0 if it was not taken, and what the ranks ask for.

        With `ends_now`, or if the ranks ask for a checkpoint or the end, nothing is left to find out about this step when it
        returns. Raises UserError if a step is not finite and must not be skipped, with everything as it was before that step,
        and if too many images cannot be read.
        """
        step = self._state.step + 1
        begun = [self._model.forward(batch, step - 1)]
        before = self._find_out() if self._queued else Request()
        computed = self._model.backward(begun.pop(), self._loss_scale.value)  # which alone has its graph then
        summed = self._signals.sync(self._model.is_finite(computed), self._data.unreadable)
        self._queued = _Queued(step, lr, computed, to_host(summed))
        self._state.loss_count += 1
        if not self._run_ahead:
            asked = self._find_out()
            if asked.nonfinite:
                self._model.drop()
                return paddle.zeros([1]), asked
            self._model.update(computed, lr)
            return computed.loss, asked

        finite = summed[:1] >= world_size()
        self._model.update(computed, lr, finite)
        loss = paddle.where(finite, computed.loss.reshape([1]), paddle.zeros([1]))
        if ends_now or before.stop or before.save:
            now = self._find_out()
            return loss, now._replace(stop=before.stop or now.stop, save=before.save or now.save)
        return loss, before

    def _find_out(self) -> Request:
        """Wait for what the ranks ask for in the queued step, and count it if it was not taken."""
        assert self._queued
        (step, lr, computed, summed), self._queued = self._queued, None
        asked = Request.of(summed())
        self._data.check_unreadable(asked.unreadable)
        scaled_down = self._loss_scale.adapt(step, not asked.nonfinite)
        if asked.nonfinite:
            self._state.loss_count -= 1
        if asked.nonfinite and not scaled_down:
            try:
                skip_or_stop(self._options, self._model, self._state, self._data, step, lr, computed)
            except UserError:
                self._state.step = step - 1
                self._model.drop()  # the forward pass of the step after, too
                raise
        return asked
