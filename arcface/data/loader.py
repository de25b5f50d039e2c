"""Batches of one rank, decoded in worker processes."""

from collections.abc import Iterator
from itertools import islice

import cv2
import numpy as np
import paddle
from paddle.utils.dlpack import from_dlpack

from arcface.data.augment import Augmentation
from arcface.data.datasets.base import Dataset
from arcface.data.sampler import EpochOrder, Rows, steps_per_epoch
from arcface.data.workers import Workers, available
from arcface.errors import UserError
from arcface.io.images import SIZE, batch_channels_first, decode, decode_crop
from arcface.rng import Stream, rng

NOT_COUNTED = -1  # label of a row that is padding
UNREADABLE = -2  # label of a row whose image could not be read: black, and like padding not in the loss


class Batches:
    """Maps a run's step (over all epochs) to this rank's slice of its global batch.

    An item is (images uint8 [n, 3, 112, 112] RGB, labels int64 [n]) with n = batch_size / world_size, as numpy arrays.
    """

    def __init__(
        self,
        source: Dataset,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        shuffle: str = "global",
        sampling: str = "natural",
        augmentation: Augmentation = Augmentation(),
    ):
        """`shuffle` and `sampling` are the options of these names in arcface/config.py."""
        if batch_size % world_size:
            raise UserError(
                f"--batch_size {batch_size} is the global batch and must be divisible by the {world_size} ranks;"
                f" take {batch_size // world_size * world_size or world_size}"
            )
        if (shuffle, sampling) == ("blocks", "balanced"):
            raise UserError("--shuffle blocks and --sampling balanced: the people of a balanced batch lie all over; leave out one")
        self.source, self.batch_size, self.seed, self.augmentation = source, batch_size, seed, augmentation
        self.steps_per_epoch = steps_per_epoch(len(source), batch_size)
        self._shuffle, self._sampling = shuffle, sampling
        per_rank = batch_size // world_size
        self.shape = (per_rank, SIZE, SIZE, 3)  # of what `fill` is given
        self._part = slice(rank * per_rank, (rank + 1) * per_rank)
        self._order: EpochOrder | None = None  # of the epoch of the last step asked for

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rows, images = self.rows(step), np.empty(self.shape, np.uint8)
        return self.put_together(rows, images, self.fill(rows, images))

    def rows(self, step: int) -> Rows:
        """Return what this rank's rows of a step are."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order.epoch != epoch:
            self._order = None  # it is large: not two at a time
            self._order = EpochOrder(self.source.labels, self.batch_size, self.seed, epoch, self._shuffle, self._sampling)
        return self._order.batch(step_in_epoch).part(self._part)

    def fill(self, rows: Rows, images: np.ndarray) -> np.ndarray:
        """Write the images of the rows into `images`, as OpenCV has them: uint8 [n, 112, 112, 3], BGR.

        Black are those that cannot be read; returns which they are, bool [n].
        """
        unreadable, augments = np.zeros(len(images), bool), bool(self.augmentation)
        draws = zip(rows.indices.tolist(), rows.flipped.tolist(), rows.keys.tolist(), strict=True)
        for row, (index, flip, key) in enumerate(draws):
            image = images[row]
            try:
                decode_crop(self.source.encoded(index), "", out=image)
            except UserError:  # told by the training process, by `complaints`
                image[:], unreadable[row] = 0, True
                continue
            if flip:
                cv2.flip(image, 1, image)
            if augments:
                image[:] = self.augmentation(image, rng(Stream.AUGMENTATION, self.seed, rows.epoch, key))
        return unreadable

    def put_together(self, rows: Rows, images: np.ndarray, unreadable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch, given what `fill` has written and returned; rows that do not count have a negative label."""
        labels = np.where(unreadable, UNREADABLE, self.source.labels[rows.indices])
        return batch_channels_first(images), np.where(rows.padding, NOT_COUNTED, labels)

    def names(self, step: int) -> list[str]:
        """Return what messages call this rank's images of a step, in the batch's order."""
        return [self.source.name(index) for index in self.rows(step).indices]

    def complaints(self, step: int, labels: np.ndarray) -> dict[int, str]:
        """Return what is wrong with the unreadable images of a step, by index, given the labels that came with it."""
        if not (labels == UNREADABLE).any():
            return {}
        messages = {}
        for index in self.rows(step).indices[labels == UNREADABLE]:
            try:
                decode(self.source.encoded(index), self.source.name(index))
                messages[int(index)] = f"{self.source.name(index)}: was unreadable for a moment"
            except UserError as error:
                messages[int(index)] = str(error)
        return messages


def load(batches: Batches, first: int, last: int, num_workers: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
    """Yield the batches of the steps first .. last - 1 in order, as tensors on the CPU; workers live for all of them.

    Without workers (0 of them, or no Linux) a batch is made when it is asked for.
    """
    if num_workers == 0 or not available():
        for step in range(first, last):
            yield _tensors(*batches[step])
        return
    with Workers(batches.fill, batches.shape, num_workers) as workers:
        ahead = map(batches.rows, range(first, last))
        for rows in islice(ahead, workers.capacity):
            workers.submit(rows)
        for _ in range(first, last):
            batch = batches.put_together(*workers.take())
            for rows in islice(ahead, 1):  # into the memory that is free again
                workers.submit(rows)
            yield _tensors(*batch)


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[paddle.Tensor, paddle.Tensor]:
    # DLPack: the tensor is the array's memory, not a copy.
    return from_dlpack(images.__dlpack__()), from_dlpack(labels.__dlpack__())
