"""The loader: one rank's batches of decoded images, made in worker processes."""

from collections.abc import Iterator
from itertools import islice

import cv2
import numpy as np
import paddle
from paddle.utils.dlpack import from_dlpack

from arcface.data.augment import Augmentation
from arcface.data.datasets.base import Dataset
from arcface.data.sampler import Draws, EpochSampler, steps_per_epoch
from arcface.data.workers import Workers, available
from arcface.errors import UserError
from arcface.io.images import SIZE, batch_channels_first, decode, decode_crop
from arcface.rng import Stream, rng

# Labels of images that are not in the loss; those of valid images are 0 and up.
PADDING = -1  # fills up an epoch's last batch
UNREADABLE = -2  # black, since it could not be read


class Loader:
    """Maps a run's step (over all epochs) to this rank's part of its global batch.

    An item is (images uint8 [n, 3, 112, 112] RGB, labels int64 [n]) with n = batch_size / world_size, as numpy arrays.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        shuffle: str = "global",
        sampling: str = "natural",
        augmentation: Augmentation = Augmentation(),
    ):
        """`shuffle` and `sampling` are the options of these names in arcface/config.py.

        Raises UserError for a batch size that the ranks cannot share, or options that contradict each other.
        """
        if batch_size % world_size:
            raise UserError(
                f"--batch_size {batch_size} is the global batch and must be divisible by the {world_size} ranks;"
                f" use {batch_size // world_size * world_size or world_size}"
            )
        if (shuffle, sampling) == ("blocks", "balanced"):
            raise UserError(
                "--shuffle blocks and --sampling balanced: the images of a balanced batch lie anywhere; leave one of them out"
            )
        self.dataset, self.batch_size, self.seed, self.augmentation = dataset, batch_size, seed, augmentation
        self.steps_per_epoch = steps_per_epoch(len(dataset), batch_size)
        self._shuffle, self._sampling = shuffle, sampling
        per_rank = batch_size // world_size
        self.shape = (per_rank, SIZE, SIZE, 3)  # of what `fill` writes into
        self._part = slice(rank * per_rank, (rank + 1) * per_rank)
        self._sampler: EpochSampler | None = None  # of the epoch of the last step asked for

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        draws, images = self.draws(step), np.empty(self.shape, np.uint8)
        return self.assemble(draws, images, self.fill(draws, images))

    def batches(self, first: int, last: int, num_workers: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        """Yield the batches of the steps first .. last - 1 in order, as tensors on the CPU; workers live for all of them.

        Without workers (0 of them, or no Linux) a batch is made when it is asked for.
        """
        if num_workers == 0 or not available():
            for step in range(first, last):
                yield _tensors(*self[step])
            return
        with Workers(self.fill, self.shape, num_workers) as workers:
            ahead = map(self.draws, range(first, last))
            for draws in islice(ahead, workers.capacity):
                workers.submit(draws)
            for _ in range(first, last):
                batch = self.assemble(*workers.take())
                for draws in islice(ahead, 1):  # into the memory that is free again
                    workers.submit(draws)
                yield _tensors(*batch)

    def names(self, step: int) -> list[str]:
        """Return what messages call this rank's images of a step, in the batch's order."""
        return [self.dataset.name(index) for index in self.draws(step).indices]

    def complaints(self, step: int, labels: np.ndarray) -> dict[int, str]:
        """Return what is wrong with the unreadable images of a step, by index, given the labels that came with it."""
        if not (labels == UNREADABLE).any():
            return {}
        messages = {}
        for index in self.draws(step).indices[labels == UNREADABLE]:
            try:
                decode(self.dataset.encoded(index), self.dataset.name(index))
                messages[int(index)] = f"{self.dataset.name(index)}: was unreadable for a moment"
            except UserError as error:
                messages[int(index)] = str(error)
        return messages

    def draws(self, step: int) -> Draws:
        """Return what is drawn for this rank's images of a step."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._sampler is None or self._sampler.epoch != epoch:
            self._sampler = None  # it is large: not two at a time
            self._sampler = EpochSampler(self.dataset.labels, self.batch_size, self.seed, epoch, self._shuffle, self._sampling)
        return self._sampler.batch(step_in_epoch).part(self._part)

    def fill(self, draws: Draws, images: np.ndarray) -> np.ndarray:
        """Write the images that are drawn into `images`, as OpenCV has them: uint8 [n, 112, 112, 3], BGR.

        Black are those that cannot be read; returns which they are, bool [n].
        """
        unreadable, augments = np.zeros(len(images), bool), bool(self.augmentation)
        each = zip(draws.indices.tolist(), draws.flipped.tolist(), draws.keys.tolist(), strict=True)
        for position, (index, flip, key) in enumerate(each):
            image = images[position]
            try:
                decode_crop(self.dataset.encoded(index), "", out=image)
            except UserError:  # reported by the training process, from `complaints`
                image[:], unreadable[position] = 0, True
                continue
            if flip:
                cv2.flip(image, 1, image)
            if augments:
                image[:] = self.augmentation(image, rng(Stream.AUGMENTATION, self.seed, draws.epoch, key))
        return unreadable

    def assemble(self, draws: Draws, images: np.ndarray, unreadable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch, given what `fill` has written and returned."""
        labels = np.where(unreadable, UNREADABLE, self.dataset.labels[draws.indices])
        return batch_channels_first(images), np.where(draws.padding, PADDING, labels)


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[paddle.Tensor, paddle.Tensor]:
    # DLPack: the tensor is the array's memory, not a copy.
    return from_dlpack(images.__dlpack__()), from_dlpack(labels.__dlpack__())
