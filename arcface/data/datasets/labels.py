"""Checks of the labels of a dataset, and the choice of a sample of its images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from arcface.errors import UserError


def check_labels(
    labels: np.ndarray, num_classes: int | None, file: Path, place: Callable[[int], str], unit: str, gaps: bool = False
) -> int:
    """Return the number of classes, given labels int64 [n], n >= 1, none below 0.

    Raises UserError if a class number is left out, unless there may be `gaps`, one is not below `num_classes` where that is
    given, or there is only one class. For messages, `place` says where an index stands in `file`, and `unit` what stands there,
    such as "line".
    """
    highest = int(labels.max())
    if not gaps:
        _check_no_gap(labels, highest, place, unit)
    if num_classes is not None and num_classes <= highest:
        raise UserError(
            f"{place(int(np.argmax(labels >= num_classes)))}: label {highest} is not below --num_classes {num_classes};"
            f" leave the option out to use {highest + 1} from the labels"
        )
    if max(num_classes or 0, highest + 1) < 2:
        raise UserError(f"{file}: all images are of one identity, label 0; list at least two identities")
    return num_classes or highest + 1


def _check_no_gap(labels: np.ndarray, highest: int, place: Callable[[int], str], unit: str) -> None:
    # A label beyond the number of images leaves a gap below it; to mark all up to one of two billion would take 2 GB.
    present = np.zeros(min(highest, len(labels)) + 1, bool)
    present[labels if highest <= len(labels) else labels[labels <= len(labels)]] = True
    if not present.all():
        missing = int(np.argmin(present))
        raise UserError(
            f"{place(int(np.argmax(labels > missing)))}: labels must count up from 0 without a gap, but no {unit} has"
            f" label {missing} (the highest is {highest}); relabel the identities with datasets/convert.py --relabel"
        )


def evenly_spread(length: int, count: int) -> np.ndarray:
    """Return up to `count` different indices below `length`, the first and the last among them, in ascending order."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(np.int64))
