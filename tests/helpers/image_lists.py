"""Datasets that tests write image by image."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from arcface.data.datasets.base import open_dataset
from arcface.data.selection import whole
from arcface.data.writers import write


def write_list(directory: Path, labels, contents) -> Path:
    """Write images/<number>.jpg with these contents, whatever they are, and label.txt; returns the directory."""
    (directory / "images").mkdir(parents=True)
    lines = []
    for number, (label, content) in enumerate(zip(labels, contents, strict=True)):
        (directory / "images" / f"{number}.jpg").write_bytes(content)
        lines.append(f"images/{number}.jpg\t{label}\n")
    (directory / "label.txt").write_text("".join(lines))
    return directory


class InMemory:
    """A dataset whose encoded images are in memory."""

    file = Path("memory")

    def __init__(self, labels: list[int], images: list[bytes]):
        self.labels, self.images = np.array(labels), images
        self.num_classes = max(labels) + 1

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"image {index}"

    def encoded(self, index: int) -> bytes:
        return self.images[index]


def write_records(file: str | Path, images: Iterable[tuple[int, bytes]]) -> None:
    """Write labels and encoded images, whatever they are, as `file`, which ends in .rec."""
    labels, contents = zip(*images, strict=True)
    write(whole(InMemory(list(labels), list(contents))), Path(file), "rec", 1)


def seen(path: Path) -> tuple[list[int], list[bytes]]:
    """The labels and the encoded images of a dataset."""
    dataset = open_dataset(path)
    return dataset.labels.tolist(), [dataset.encoded(index) for index in range(len(dataset))]
