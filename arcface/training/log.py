"""What a run tells: log lines, metrics.jsonl, VisualDL and a progress bar, all from the same records."""

import json
import math
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import paddle
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from arcface.distributed.process_group import all_reduce_max
from arcface.io.files import atomic_write
from arcface.io.log import logger
from arcface.verification.evaluator import Verification
from arcface.verification.log_lines import log_verification
from arcface.verification.roc import auc, equal_error_rate

METRICS_FILE = "metrics.jsonl"
VISUALDL_FILE = "vdlrecords.arcface.log"  # VisualDL reads files whose name holds "vdlrecords"

NOTEWORTHY_WAIT = 0.1  # share of the time that the trainer may wait for data without a line about it

Batch = TypeVar("Batch")


@dataclass
class Progress:
    """How far a run is, all of it in every checkpoint."""

    step: int = 0  # steps done, over all epochs
    loss_sum: float = 0.0  # of the steps since the last log line
    loss_count: int = 0
    saved: int = 0  # checkpoints that were due, without those for a signal or a new best
    skipped: int = 0  # steps that were not taken, since their loss or gradient was not finite
    highest: dict[str, float] = field(default_factory=dict)  # accuracy of each verification set
    run: str = field(default_factory=lambda: uuid.uuid4().hex)  # tells the records of runs in one logdir apart


class Monitor:
    """Follows a run's steps on every rank, and reports on rank 0.

    The loss of a log line is the mean over the steps since the last one. Use as a context manager.
    """

    def __init__(
        self,
        progress: Progress,
        steps_per_epoch: int,
        last_step: int,
        batch_size: int,
        log_interval: int,
        logdir: Path,
        reports: bool,
    ):
        self.progress, self.log_interval = progress, log_interval
        self._steps_per_epoch, self._last_step, self._batch_size = steps_per_epoch, last_step, batch_size
        self._reports, self._records = reports, Records(logdir, progress) if reports else None
        self._loss_sum = paddle.to_tensor(progress.loss_sum, "float32")  # stays on the device between log lines
        self._first_step = self._clock_step = progress.step
        self._started = self._clock = time.monotonic()
        self._waited, self._num_workers = 0.0, 0
        self._open = ExitStack()

    def __enter__(self) -> "Monitor":
        hide_bar = None if self._reports else True  # None: hide it unless on a terminal
        self._bar = self._open.enter_context(
            tqdm(total=self._last_step, initial=self.progress.step, unit=" steps", disable=hide_bar, dynamic_ncols=True)
        )
        if not self._bar.disable:
            self._open.enter_context(logging_redirect_tqdm([logger]))
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()

    def waiting_for(self, data: Iterable[Batch], num_workers: int) -> Iterator[Batch]:
        """Yield the batches, and count the time that they take to come, but for the first, for which the workers start."""
        self._num_workers = num_workers
        began = None
        for batch in data:
            if began is not None:
                self._waited += time.monotonic() - began
            yield batch
            began = time.monotonic()

    def step_done(self, loss: paddle.Tensor | None, lr: float) -> bool:
        """Count a step with its loss, None if it was skipped; write a log line if one is due, and return whether it was."""
        if loss is not None:
            self._loss_sum += loss
            self.progress.loss_count += 1
        self.progress.step += 1
        self._bar.update()
        due = self.progress.step % self.log_interval == 0 or self.progress.step == self._last_step
        if due:
            self._log(lr)
        return due

    def _log(self, lr: float) -> None:
        self.read_loss()
        step, now = self.progress.step, time.monotonic()
        # No figure where every step since the last line was skipped.
        loss = self.progress.loss_sum / self.progress.loss_count if self.progress.loss_count else math.nan
        # Without the time of verifications and checkpoints, see `paused`; the time to the end is with it.
        speed = (step - self._clock_step) * self._batch_size / (now - self._clock)
        # Of the rank that waited longest: the others have waited for it.
        data_wait = all_reduce_max(paddle.to_tensor([self._waited / (now - self._clock)], "float32")).item()
        hours = (now - self._started) / (step - self._first_step) * (self._last_step - step) / 3600
        epoch = (step - 1) // self._steps_per_epoch
        if self._records:
            logger.info(
                "Speed %.2f samples/sec   Loss %.4f   Epoch: %d   Global Step: %d   Required: %.0f hours,"
                " lr_backbone_value: %f, lr_pfc_value: %f",
                speed,
                loss,
                epoch,
                step,
                hours,
                lr,
                lr,
            )
            known = {"loss": loss} if self.progress.loss_count else {}
            self._records.add(
                step,
                "training",
                epoch=epoch,
                **known,
                samples_per_second=speed,
                hours_to_end=hours,
                data_wait=data_wait,
                lr_backbone=lr,
                lr_head=lr,
            )
            if data_wait > NOTEWORTHY_WAIT:
                logger.warning(
                    "waited for data %.0f %% of the time since the line before: raise --num_workers (%d) if cores are idle;"
                    " if it is the disk that is slow, take --shuffle blocks",
                    100 * data_wait,
                    self._num_workers,
                )
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._loss_sum.zero_()
        self.progress.loss_sum, self.progress.loss_count = 0.0, 0
        self._clock, self._clock_step, self._waited = now, step, 0.0

    def read_loss(self) -> None:
        """Bring progress up to date with the losses on the device."""
        self.progress.loss_sum = self._loss_sum.item()

    def verified(self, name: str, result: Verification) -> bool:
        """Report a verification, remember the highest accuracy, and return whether this is a new one."""
        before = self.progress.highest.get(name, 0.0)
        highest = self.progress.highest[name] = max(result.accuracy.mean, before)
        if self._records:
            log_verification(name, self.progress.step, result, highest)
            from arcface.verification.plots import thinned  # imports matplotlib, which only rank 0 needs

            self._records.add(
                self.progress.step,
                f"verification/{name}",
                xnorm=result.xnorm,
                highest=highest,
                accuracy=result.accuracy.mean,
                std=result.accuracy.std,
                auc=auc(result.curve),
                equal_error_rate=equal_error_rate(result.curve)[0],
                roc=thinned(result.curve),
            )
        return result.accuracy.mean > before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent inside out of the speed."""
        before = time.monotonic()
        yield
        self._clock += time.monotonic() - before


class Records:
    """metrics.jsonl, one JSON object a line, and the same figures for VisualDL.

    Files that hold another run's records are moved to a folder of their own, where VisualDL shows them as another run.
    A run that resumes drops what it recorded after the step that it resumes from.
    """

    def __init__(self, logdir: Path, progress: Progress):
        from visualdl import LogWriter  # only rank 0 needs it

        self._file = logdir / METRICS_FILE
        self._run = progress.run
        recorded = _read_records(self._file)
        kept = [record for record in recorded if record and record["run"] == self._run and record["step"] <= progress.step]
        if any(not record or record["run"] != self._run for record in recorded):
            _set_aside(logdir)
        (logdir / VISUALDL_FILE).unlink(missing_ok=True)  # it is written again from the records kept
        self._visualdl = LogWriter(str(logdir), file_name=VISUALDL_FILE)
        with atomic_write(self._file) as file:
            file.writelines(json.dumps(record).encode() + b"\n" for record in kept)
        last = {record["kind"]: record for record in kept}
        for record in kept:
            self._draw(record, with_picture=record is last[record["kind"]])  # all of them would take minutes

    def add(self, step: int, kind: str, **figures: float | dict) -> None:
        """Record figures of a step; `kind` is "training" or "verification/<set>", a dict is an ROC."""
        record = {"run": self._run, "step": step, "kind": kind, "time": time.time(), **figures}
        with self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._draw(record, with_picture=True)

    def _draw(self, record: dict, with_picture: bool) -> None:
        kind, step, walltime = record["kind"], record["step"], round(record["time"] * 1000)
        for name, value in record.items():
            if name == "roc":
                if with_picture:
                    from arcface.verification.plots import pixels, thinned_figure

                    picture = pixels(thinned_figure(f"{kind.split('/')[-1]}, step {step}", value))
                    self._visualdl.add_image(f"{kind}/roc", picture, step, walltime=walltime)
            elif name not in ("run", "step", "kind", "time"):
                self._visualdl.add_scalar(f"{kind}/{name}", value, step, walltime=walltime)
        self._visualdl.flush()


def _read_records(file: Path) -> list[dict | None]:
    """Return the file's records; None for lines that are none. Lines that a crash or a full disk cut off are left out."""
    records: list[dict | None] = []
    for line in file.read_bytes().splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            if not line.startswith(b'{"run": '):
                records.append(None)
            continue
        records.append(record if isinstance(record, dict) and {"run", "step", "kind", "time"} <= record.keys() else None)
    return records


def _set_aside(logdir: Path) -> None:
    ended = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime((logdir / METRICS_FILE).stat().st_mtime))
    folder = logdir / f"until_{ended}"
    while folder.exists():
        folder = folder.with_name(folder.name + "_")
    folder.mkdir()
    for name in (METRICS_FILE, VISUALDL_FILE):
        if (logdir / name).exists():
            os.replace(logdir / name, folder / name)
