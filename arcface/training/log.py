"""TrainLog: what a run tells, as log lines, metrics, a progress bar and a picture at its end.

The loss between two lines stays on the device.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import paddle
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from arcface.config import TrainConfig
from arcface.data.bin_file import VerificationSet
from arcface.distributed.process_group import all_reduce_max, rank
from arcface.io.log import logger
from arcface.system.card import card_figures
from arcface.training.data import TrainingData
from arcface.training.metrics_writer import MetricsWriter
from arcface.training.state import TrainState
from arcface.verification.evaluator import Verification
from arcface.verification.log_lines import log_verification
from arcface.verification.roc import auc, equal_error_rate

NOTEWORTHY_WAIT = 0.1  # share of the time that the trainer may wait for data without a line about it


class TrainLog:
    """Follows a run's steps on every rank, and reports on rank 0. Use as a context manager.

    The loss of a log line is the mean over the steps since the last one. best_by: the set that decides which checkpoint is best.
    """

    def __init__(self, options: TrainConfig, state: TrainState, data: TrainingData, last_step: int, best_by: str | None):
        self._state, self._data, self._last_step = state, data, last_step
        self._interval, self._head_lr_scale, self._best_by = options.log_interval, options.head_lr_scale, best_by
        self._logdir = Path(options.logdir)
        self._metrics = MetricsWriter(self._logdir, state) if rank() == 0 else None
        self._loss_sum = paddle.full([1], state.loss_sum)  # stays on the device between log lines
        self._first_step = self._line_step = state.step
        self._started = self._line_time = time.monotonic()
        self._line_waited = data.seconds_waited
        self._open = ExitStack()

    def __enter__(self) -> "TrainLog":
        hide_bar = None if self._metrics else True  # None: hide it unless on a terminal
        self._bar = self._open.enter_context(
            tqdm(total=self._last_step, initial=self._state.step, unit=" steps", disable=hide_bar, dynamic_ncols=True)
        )
        if not self._bar.disable:
            self._open.enter_context(logging_redirect_tqdm([logger]))
        return self

    def __exit__(self, kind, *exception) -> None:
        self._open.close()
        if kind is None and self._metrics and self._metrics.worth_a_picture:
            from arcface.training.curves import draw_curves  # imports matplotlib, which only rank 0 needs

            try:
                draw_curves(self._logdir)
            except OSError as error:
                logger.warning("%s: no picture of the curves (%s)", self._logdir, error.strerror or error)

    def due(self, step: int) -> bool:
        """Whether a step has a log line."""
        return step % self._interval == 0 or step == self._last_step

    def step(self, loss: paddle.Tensor, lr: float) -> None:
        """Add the loss of the step that is done, 0 if it was not taken; write a log line if one is due."""
        self._loss_sum += loss
        self._bar.update()
        if self.due(self._state.step):
            self._write_line(lr)

    def _write_line(self, lr: float) -> None:
        self._read_loss()  # waits for the device, so that the time below is that of finished steps
        state, step, now = self._state, self._state.step, time.monotonic()
        # No figure where every step since the last line was skipped.
        loss = state.loss_sum / state.loss_count if state.loss_count else math.nan
        # Without the time of verifications and checkpoints, see `paused`; the time to the end includes it.
        seconds = now - self._line_time
        speed = (step - self._line_step) * self._data.batch_size / seconds
        # Of the rank that waited longest: the others have waited for it.
        own_wait = (self._data.seconds_waited - self._line_waited) / seconds
        data_wait = all_reduce_max(paddle.to_tensor([own_wait], "float32")).item()
        hours = (now - self._started) / (step - self._first_step) * (self._last_step - step) / 3600
        epoch = (step - 1) // self._data.steps_per_epoch
        head_lr = lr * self._head_lr_scale
        if self._metrics:
            logger.info(
                "Speed %.2f samples/sec   Loss %.4f   Epoch: %d   Global Step: %d   Required: %.0f hours,"
                " lr_backbone_value: %f, lr_pfc_value: %f",
                *(speed, loss, epoch, step, hours, lr, head_lr),
            )
            self._metrics.add(
                step,
                "training",
                epoch=epoch,
                **({"loss": loss} if state.loss_count else {}),
                samples_per_second=speed,
                hours_to_end=hours,
                data_wait=data_wait,
                lr_backbone=lr,
                lr_head=head_lr,
                **card_figures(),
            )
            if data_wait > NOTEWORTHY_WAIT:
                logger.warning(
                    "waited for data %.0f %% of the time since the line before: raise --num_workers (%d) if cores are idle;"
                    " if the disk is slow, use --shuffle blocks",
                    100 * data_wait,
                    self._data.options.num_workers,
                )
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._loss_sum.zero_()
        state.loss_sum, state.loss_count = 0.0, 0
        self._line_time, self._line_step, self._line_waited = now, step, self._data.seconds_waited

    def verification(self, results: Iterable[tuple[VerificationSet, Verification]]) -> bool:
        """Report each result as it comes; return whether the accuracy on the set `best_by` is the highest so far."""
        new_best = False
        with self.paused():
            for pairs, result in results:
                before = self._state.highest.get(pairs.name, 0.0)
                self._state.highest[pairs.name] = max(result.accuracy.mean, before)
                new_best |= pairs.name == self._best_by and result.accuracy.mean > before
                self._report(pairs.name, result)
        return new_best

    def _report(self, name: str, result: Verification) -> None:
        if not self._metrics:
            return
        highest = self._state.highest[name]
        log_verification(name, self._state.step, result, highest)
        from arcface.verification.plots import thinned  # imports matplotlib, which only rank 0 needs

        self._metrics.add(
            self._state.step,
            f"verification/{name}",
            xnorm=result.xnorm,
            highest=highest,
            accuracy=result.accuracy.mean,
            std=result.accuracy.std,
            auc=auc(result.curve),
            equal_error_rate=equal_error_rate(result.curve)[0],
            roc=thinned(result.curve),
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out of the speed; the state is up to date with the losses on the device."""
        before = time.monotonic()
        self._read_loss()
        yield
        self._line_time += time.monotonic() - before

    def stopped(self) -> None:
        """Say that a signal ended the run after this step, whose checkpoint is saved."""
        step = self._state.step
        logger.info("stopped by a signal after step %d, which is saved; the same command with --resume 1 continues", step)

    def _read_loss(self) -> None:
        self._state.loss_sum = self._loss_sum.item()
