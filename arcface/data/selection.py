"""A choice of the images of one or more datasets, in an order and with labels of its own: what the writers write."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np

from arcface.data.datasets.base import Dataset
from arcface.data.names import names_of
from arcface.errors import UserError


@dataclass(frozen=True, eq=False)
class Selection:
    """Images of one or more datasets, with labels of their own.

    Attributes:
        datasets: up to 256 of them, as `open_dataset` returned them.
        dataset_numbers: uint8 [n], which dataset each image is of.
        indices: int64 [n], where in its dataset each image is.
        labels: int64 [n], from 0 without a gap.
        identity_names: the name of each label, '' where it has none.
        old_labels: int64 [identities], what each label was in the dataset; None where that need not be kept.
    """

    datasets: list[Dataset]
    dataset_numbers: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    identity_names: list[str]
    old_labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many identities there are."""
        return len(self.identity_names)

    def name(self, position: int) -> str:
        """Return what messages call an image."""
        return self.datasets[self.dataset_numbers[position]].name(int(self.indices[position]))

    def encoded(self, position: int) -> bytes:
        """Return the image's bytes; raises UserError if they cannot be read or are none."""
        image = self.datasets[self.dataset_numbers[position]].encoded(int(self.indices[position]))
        if not image:
            raise UserError(f"{self.name(position)}: the image is empty; datasets/check.py can write a copy without such images")
        return image

    def pick(self, positions: np.ndarray) -> "Selection":
        """Return some of the images; the identities that remain keep their order and are relabelled without a gap."""
        remaining, labels = np.unique(self.labels[positions], return_inverse=True)
        old_labels = None if self.old_labels is None else self.old_labels[remaining]
        names = [self.identity_names[label] for label in remaining]
        return Selection(self.datasets, self.dataset_numbers[positions], self.indices[positions], labels, names, old_labels)

    def fingerprint(self) -> bytes:
        """Return 16 bytes that differ for other images or labels, as far as the datasets' lists tell."""
        seen = hashlib.blake2b(self.labels.tobytes(), digest_size=16)
        for array in self.dataset_numbers, self.indices:
            seen.update(array.tobytes())
        for dataset in self.datasets:
            seen.update(str(dataset.file.resolve()).encode())
        for dataset in self.datasets:
            seen.update(os.fsencode(f"{dataset.name(0)}\n{dataset.name(len(dataset) - 1)}\n"))
        return seen.digest()


def whole(dataset: Dataset) -> Selection:
    """Return all images of a dataset, with its labels."""
    names = names_of(dataset)
    identity_names = [names.get(label, "") for label in range(dataset.num_classes)]
    return Selection([dataset], np.zeros(len(dataset), np.uint8), np.arange(len(dataset)), dataset.labels, identity_names)


def relabelled(dataset: Dataset) -> Selection:
    """Return all images of a dataset that was opened with gaps between its labels: identities keep their order, without a gap."""
    old_labels, labels = np.unique(dataset.labels, return_inverse=True)
    names = names_of(dataset)
    identity_names = [names.get(label, "") for label in old_labels.tolist()]
    return Selection([dataset], np.zeros(len(dataset), np.uint8), np.arange(len(dataset)), labels, identity_names, old_labels)
