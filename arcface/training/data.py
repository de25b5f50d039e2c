"""TrainingData: the training images of this rank, as batches on the device, and what becomes of unreadable ones.

Images travel as bytes: they are normalised on the device.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

import numpy as np
import paddle

from arcface.config import DataOptions
from arcface.data.augment import Augmentation
from arcface.data.datasets.base import open_dataset
from arcface.data.loader import Loader
from arcface.data.workers import Workers
from arcface.distributed.process_group import all_gather, rank, world_size
from arcface.distributed.wire import in_words
from arcface.errors import UserError
from arcface.io.images import batch_channels_first
from arcface.io.log import logger
from arcface.system.transfer import to_device


class Batch(NamedTuple):
    """One rank's part of a global batch of N images, n = N / world_size, on the device.

    images: [n, 3, 112, 112], RGB, of uint8 or, with the same values, float32. labels: int64 [n]; a negative one leaves its image
    out of the loss. listed: int64 [N], on the host of every rank: the labels of all ranks' images as the dataset lists them,
    negative only for padding.
    """

    images: paddle.Tensor
    labels: paddle.Tensor
    listed: np.ndarray


def on_cpu(images: np.ndarray) -> paddle.Tensor:
    """Return a batch of images in OpenCV's layout, uint8 [n, height, width, 3], BGR, as a tensor [n, 3, height, width], RGB."""
    return to_device(batch_channels_first(images))


def on_gpu(images: np.ndarray) -> paddle.Tensor:
    """Do what `on_cpu` does, but move the channels on the device; float32, since Paddle does not flip uint8."""
    return to_device(images).astype("float32").transpose([0, 3, 1, 2]).flip([1])


class TrainingData(AbstractContextManager):
    """The training images of this rank. While it is open there are worker processes, which are forked as it opens.

    dataset: all images and labels. unreadable: how many different images of this rank could not be read so far.
    seconds_waited: for batches in all, but for the first, for which the worker processes start.
    """

    def __init__(self, options: DataOptions, data_dir: str, batch_size: int, seed: int):
        """Open the dataset; raises UserError for options, files and labels that are wrong."""
        self.options, self.data_dir = options, data_dir
        self.dataset = open_dataset(data_dir, options.label_file, options.num_classes, bool(options.outside_paths))
        augmentation = Augmentation(
            options.augment_photometric, options.augment_low_resolution, options.augment_crop, options.augment_occlusion
        )
        self._loader = Loader(self.dataset, batch_size, seed, rank(), world_size(), options.shuffle, options.sampling, augmentation)
        self.batch_size, self.steps_per_epoch = batch_size, self._loader.steps_per_epoch
        self.seconds_waited = 0.0
        self._unreadable: set[int] = set()
        self._open = ExitStack()
        self._workers: Workers | None = None

    def __enter__(self) -> "TrainingData":
        self._workers = self._open.enter_context(self._loader.workers(self.options.num_workers))
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()

    @property
    def unreadable(self) -> int:
        """How many different images of this rank could not be read so far."""
        return len(self._unreadable)

    def scan(self) -> None:
        """Decode --scan_images images, spread over the list; raises UserError for the first that is missing or wrong."""
        self.dataset.scan(self.options.scan_images)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of the steps first .. last - 1, on the device.

        An image that cannot be read is told in the log.
        """
        began = None
        arrange = on_cpu if paddle.get_device() == "cpu" else on_gpu
        batches = self._loader.batches(first, last, self._workers, arrange)
        for step, (images, labels, listed) in enumerate(batches, first):
            if began is not None:
                self.seconds_waited += time.monotonic() - began
            for index, complaint in self._loader.complaints(step, labels).items():
                logger.warning("not in the loss: %s", complaint)
                self._unreadable.add(index)
            yield Batch(images, to_device(labels), listed)
            began = time.monotonic()

    def names(self, step: int) -> list[str]:
        """Return what messages call this rank's images of a step, in the batch's order."""
        return self._loader.names(step)

    def check_unreadable(self, of_all_ranks: int) -> None:
        """Raise UserError if the ranks together met too many unreadable images."""
        if of_all_ranks > self.options.max_bad_images:
            raise UserError(
                f"{of_all_ranks} unreadable images, more than --max_bad_images {self.options.max_bad_images};"
                " see the warnings in the ranks' logs"
            )

    def check_same_on_all_ranks(self) -> None:
        """Raise UserError on every rank if a rank's labels differ from rank 0's; every rank calls it."""
        if world_size() == 1:
            return
        digest = np.frombuffer(hashlib.sha256(self.dataset.labels.tobytes()).digest(), np.uint32)
        mine = [len(self.dataset), self.dataset.num_classes, *digest.tolist()]
        all_ranks = all_gather(paddle.to_tensor([mine], "int64")).tolist()
        if others := [other for other, found in enumerate(all_ranks) if found != all_ranks[0]]:
            first, other = all_ranks[0], all_ranks[others[0]]
            kind = "other labels" if first[:2] == other[:2] else f"{other[0]} images of {other[1]} identities"
            raise UserError(
                f"--data_dir {self.data_dir}: rank 0 finds {first[0]} images of {first[1]} identities, {in_words(others)}"
                f" {kind}: copy the same dataset to every machine, or use one that all of them share"
            )
