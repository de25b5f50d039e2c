"""The loader: one rank's batches of decoded images, made in worker processes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TypeVar

import cv2
import numpy as np

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


Images = TypeVar("Images")


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
        unreadable = self.fill(draws, images)
        return batch_channels_first(images), self._labels(draws, unreadable)

    def workers(self, count: int) -> AbstractContextManager[Workers | None]:
        """Return worker processes for `batches`; None, with which a batch is made when it is asked for, without any or Linux."""
        return Workers(self.fill, self.shape, count) if count and available() else nullcontext()

    def batches(
        self, first: int, last: int, workers: Workers | None, arrange: Callable[[np.ndarray], Images]
    ) -> Iterator[tuple[Images, np.ndarray, np.ndarray]]:
        """Yield the batches of the steps first .. last - 1 in order: images, labels and listed labels.

        images: what `arrange` makes of them as OpenCV has them, uint8 [n, 112, 112, 3], BGR, in memory that is used again.
        labels: int64 [n], negative for images that are not in the loss. listed: int64 [batch_size], the labels of all ranks' images
        as every rank finds them in its list, rank by rank; PADDING for padding, but the label of an image that cannot be read.
        """
        plans = map(self._plan, range(first, last))
        if workers is None:
            images = np.empty(self.shape, np.uint8)
            for draws, listed in plans:
                unreadable = self.fill(draws, images)
                yield arrange(images), self._labels(draws, unreadable), listed
            return
        under_way: deque[np.ndarray] = deque()

        def submit(plans: Iterable[tuple[Draws, np.ndarray]]) -> None:
            for draws, listed in plans:
                under_way.append(listed)
                workers.submit(draws)

        submit(islice(plans, workers.capacity))
        for _ in range(first, last):
            draws, images, unreadable = workers.take()
            batch = arrange(images), self._labels(draws, unreadable), under_way.popleft()
            submit(islice(plans, 1))  # into the memory that is free again
            yield batch

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
        return self._draws_of_all_ranks(step).part(self._part)

    def _draws_of_all_ranks(self, step: int) -> Draws:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._sampler is None or self._sampler.epoch != epoch:
            self._sampler = None  # it is large: not two at a time
            self._sampler = EpochSampler(self.dataset.labels, self.batch_size, self.seed, epoch, self._shuffle, self._sampling)
        return self._sampler.batch(step_in_epoch)

    def _plan(self, step: int) -> tuple[Draws, np.ndarray]:
        """Return what is drawn for this rank's images of a step, and the labels of all ranks' as they are listed."""
        draws = self._draws_of_all_ranks(step)
        listed = np.where(draws.padding, PADDING, self.dataset.labels[draws.indices])
        return draws.part(self._part), listed

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

    def _labels(self, draws: Draws, unreadable: np.ndarray) -> np.ndarray:
        labels = np.where(unreadable, UNREADABLE, self.dataset.labels[draws.indices])
        return np.where(draws.padding, PADDING, labels)
