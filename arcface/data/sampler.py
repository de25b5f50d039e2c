"""Samplers: which images a step uses, and which of them are flipped, as pure functions of (seed, epoch)."""

from typing import NamedTuple

import numpy as np

from arcface.rng import Stream, rng

BLOCK = 256  # consecutive images that stay near each other in `blocks_shuffled`: about a megabyte
WINDOW = 256 * BLOCK  # images that are then mixed with one another
_FLIPS_AT_ONCE = 2**20  # a multiple of 8


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of global batches that contain every image once; the last may be padded."""
    return -(-images // batch_size)


class Draws(NamedTuple):
    """What is drawn for the images of a batch; arrays [n]."""

    epoch: int
    indices: np.ndarray  # int64, of the images
    flipped: np.ndarray  # bool
    padding: np.ndarray  # bool: the image fills up an epoch's last batch and is not in the loss
    keys: np.ndarray  # int64: what else is drawn for an image is keyed by seed, epoch and this

    def part(self, chosen: slice) -> "Draws":
        """Return the draws of some of the images."""
        return Draws(self.epoch, *(values[chosen] for values in self[1:]))


class EpochSampler:
    """One epoch: as many draws as there are images, in a random order, cut into global batches.

    The last batch is filled up with images from the beginning of the order; `batch` says which are such padding. The sampler
    takes 4 bytes and a bit per image (8 from 2**31 images up).
    """

    def __init__(
        self, labels: np.ndarray, batch_size: int, seed: int, epoch: int, shuffle: str = "global", sampling: str = "natural"
    ):
        """`shuffle` and `sampling` are the options of these names in arcface/config.py; balanced sampling has no blocks."""
        self.batch_size, self.epoch = batch_size, epoch
        random = rng(Stream.ORDER, seed, epoch)
        self._repeats = sampling == "balanced"
        if self._repeats:
            self._order = balanced(labels, random)
        else:
            self._order = (blocks_shuffled if shuffle == "blocks" else shuffled)(len(labels), random)
        self._flips = _flips(len(labels), rng(Stream.FLIP, seed, epoch))

    def batch(self, step: int) -> Draws:
        """Return the draws of the `batch_size` images of a step of the epoch.

        An image's draws depend on seed, epoch and its index alone; with balanced sampling, where it may come several times,
        on its position in the order instead of the index.
        """
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        padding = positions >= len(self._order)
        positions %= len(self._order)
        indices = self._order[positions].astype(np.int64)
        keys = positions if self._repeats else indices
        flipped = np.unpackbits(self._flips[keys // 8, None], axis=1)[np.arange(len(keys)), keys % 8].astype(bool)
        return Draws(self.epoch, indices, flipped, padding, keys)


def shuffled(images: int, random: np.random.Generator) -> np.ndarray:
    """Return the indices of the images, each once, in an order all of which are equally likely."""
    order: np.ndarray = np.arange(images, dtype=_index_type(images))
    random.shuffle(order)
    return order


def blocks_shuffled(images: int, random: np.random.Generator) -> np.ndarray:
    """Return the indices of the images, each once, so that each WINDOW of the order comes from few places of the dataset.

    Blocks of BLOCK consecutive images are shuffled, then the images of each WINDOW among one another.
    """
    blocks: np.ndarray = shuffled(-(-images // BLOCK), random).astype(_index_type(images))
    order: np.ndarray = (blocks[:, None] * BLOCK + np.arange(BLOCK, dtype=blocks.dtype)).ravel()
    order = order[order < images]  # the last block may be shorter
    for first in range(0, images, WINDOW):
        random.shuffle(order[first : first + WINDOW])
    return order


def balanced(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return indices of as many images as there are, of every identity equally often, and within it every image.

    "Equally often" is to one: shares that are no whole numbers are rounded up for some identities, drawn at random.
    """
    images, index_type = len(labels), _index_type(len(labels))
    images_of = np.bincount(labels)
    identities = np.flatnonzero(images_of)
    by_identity = shuffled(images, random)
    by_identity = by_identity[np.argsort(labels[by_identity], kind="stable")]  # the images of each identity, shuffled
    draws = np.full(len(identities), images // len(identities))
    draws[random.permutation(len(identities))[: images % len(identities)]] += 1

    def of_each_draw(value_of_identity: np.ndarray) -> np.ndarray:
        return np.repeat(value_of_identity.astype(index_type), draws)

    order: np.ndarray = np.arange(images, dtype=index_type)
    order -= of_each_draw(np.cumsum(draws) - draws)  # counts the draws of each identity from 0
    order %= of_each_draw(images_of[identities])  # all images come once before one comes again
    order += of_each_draw((np.cumsum(images_of) - images_of)[identities])
    order = by_identity[order]
    random.shuffle(order)
    return order


def _flips(count: int, random: np.random.Generator) -> np.ndarray:
    """Return `count` random bits, eight to a byte."""
    parts = [
        np.packbits(random.random(min(_FLIPS_AT_ONCE, count - first), np.float32) < 0.5)
        for first in range(0, count, _FLIPS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _index_type(images: int) -> type:
    return np.uint32 if images < 2**31 else np.int64
