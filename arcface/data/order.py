"""Which images a step uses, and which of them are flipped: pure functions of (seed, epoch)."""

import numpy as np

from arcface.keyed_random import Purpose, generator


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of global batches that hold every image once; the last may be padded."""
    return -(-images // batch_size)


class EpochOrder:
    """One epoch: every image once, shuffled, cut into global batches.

    The last batch is filled up with images from the beginning of the order; `batch` says which rows are such padding.
    """

    def __init__(self, images: int, batch_size: int, seed: int, epoch: int):
        self.batch_size, self.epoch = batch_size, epoch
        self._order = generator(Purpose.ORDER, seed, epoch).permutation(images)
        self._flipped = generator(Purpose.FLIP, seed, epoch).random(images, np.float32) < 0.5

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image indices (int64), which to flip and which rows are padding (bool) of the epoch's step, each
        [batch_size]. Whether an image is flipped depends on seed, epoch and its index alone."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        indices = self._order[positions % len(self._order)]
        return indices, self._flipped[indices], positions >= len(self._order)
