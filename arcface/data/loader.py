"""Batches of one rank, decoded in worker processes."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import partial
from multiprocessing.synchronize import Event as EventType

import cv2
import numpy as np
import paddle
from paddle.io import DataLoader, Dataset

from arcface.data.label_file import LabelFile
from arcface.data.order import EpochOrder, steps_per_epoch
from arcface.errors import UserError
from arcface.images import SIZE, decode
from arcface.runtime.processes import die_with_parent

NOT_COUNTED = -1  # label of a row that is padding
UNREADABLE = -2  # label of a row whose image could not be read: black, and like padding not in the loss


class Batches:
    """Maps a run's step (over all epochs) to this rank's slice of its global batch.

    An item is (images uint8 [n, 3, 112, 112] RGB, labels int64 [n]) with n = batch_size / world_size, as numpy arrays:
    worker processes must not make Paddle tensors.
    """

    def __init__(self, source: LabelFile, batch_size: int, seed: int, rank: int, world_size: int):
        if batch_size % world_size:
            raise UserError(
                f"--batch_size {batch_size} is the global batch and must be divisible by the {world_size} ranks;"
                f" take {batch_size // world_size * world_size or world_size}"
            )
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.steps_per_epoch = steps_per_epoch(len(source), batch_size)
        per_rank = batch_size // world_size
        self._slice = slice(rank * per_rank, (rank + 1) * per_rank)
        self._order = None  # of the epoch of the last step asked for

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        indices, flipped, padding = self._rows(step)
        labels = np.where(padding, NOT_COUNTED, self.source.labels[indices])
        images = np.zeros((len(indices), 3, SIZE, SIZE), np.uint8)
        for row, (index, flip) in enumerate(zip(indices, flipped)):
            try:
                image = decode(self.source.encoded(index), self.source.name(index))
            except UserError:
                if not padding[row]:
                    labels[row] = UNREADABLE  # reported by the training process, by `complaints`
            else:
                images[row] = image[:, :, ::-1] if flip else image
        return images, labels

    def names(self, step: int) -> list[str]:
        """Return what messages call this rank's images of a step, in the batch's order."""
        return [self.source.name(index) for index in self._rows(step)[0]]

    def complaints(self, step: int, labels: np.ndarray) -> dict[int, str]:
        """Return what is wrong with the unreadable images of a step, by index, given the labels that came with it."""
        if not (labels == UNREADABLE).any():
            return {}
        messages = {}
        for index in self._rows(step)[0][labels == UNREADABLE]:
            try:
                decode(self.source.encoded(index), self.source.name(index))
                messages[int(index)] = f"{self.source.name(index)}: was unreadable for a moment"
            except UserError as error:
                messages[int(index)] = str(error)
        return messages

    def _rows(self, step: int) -> list[np.ndarray]:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order.epoch != epoch:
            self._order = EpochOrder(len(self.source), self.batch_size, self.seed, epoch)
        return [values[self._slice] for values in self._order.batch(step_in_epoch)]


class _Shifted(Dataset):
    """The steps first .. last - 1 as 0, 1, ...: what Paddle's loader counts."""

    def __init__(self, batches: Batches, first: int, last: int):
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batches[self.first + position]


def _start_worker(ending: EventType, _: int) -> None:
    cv2.setNumThreads(0)
    die_with_parent()
    # Ctrl-C and batch systems send their signal to all processes of a job; what it means, the training process decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def terminate(number: int, _) -> None:
        if ending.is_set():  # then the training process has sent it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, terminate)


def load(batches: Batches, first: int, last: int, num_workers: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
    """Yield the batches of the steps first .. last - 1 in order, as tensors on the CPU; workers live for all of them."""
    if first >= last:
        return
    ending = multiprocessing.Event()
    atexit.register(ending.set)
    yield from DataLoader(
        _Shifted(batches, first, last), batch_size=None, num_workers=num_workers, places=paddle.CPUPlace(),
        worker_init_fn=partial(_start_worker, ending),
    )  # fmt: skip
