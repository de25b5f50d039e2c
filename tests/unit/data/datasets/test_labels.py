"""Class numbers without a gap, and samples that are spread over all."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from arcface.data.datasets.labels import check_labels, evenly_spread
from arcface.errors import UserError


def checked(labels: list[int], num_classes: int | None = None) -> int:
    return check_labels(np.array(labels), num_classes, Path("list"), "list place {}".format, "thing")


@pytest.mark.parametrize("labels, num_classes, classes", [([0, 1], None, 2), ([2, 0, 1, 1], None, 3), ([1, 0], 5, 5), ([0], 2, 2)])
def test_the_classes_are_counted(labels, num_classes, classes):
    assert checked(labels, num_classes) == classes


@pytest.mark.parametrize(
    "labels, num_classes, complaint",
    [
        ([0, 2, 3], None, "list place 1: labels must count up from 0 without a gap, but no thing has label 1 .the highest is 3."),
        ([1, 1], None, "list place 0: .* no thing has label 0"),
        ([0, 1, 3], None, "list place 2: .* no thing has label 2"),
        ([0, 1, 4], None, "list place 2: .* no thing has label 2"),
        ([0, 1, 2], 2, "list place 2: label 2 is not below --num_classes 2; leave the option out to use 3 from the labels"),
        ([0, 0], None, "list: all images are of one identity, label 0; list at least two identities"),
        ([0, 0], 1, "list: all images are of one identity"),
    ],
)
def test_other_labels_are_refused(labels, num_classes, complaint):
    with pytest.raises(UserError, match=complaint):
        checked(labels, num_classes)


def test_a_label_of_two_billion_takes_no_memory():
    tracemalloc.start()
    with pytest.raises(UserError, match="list place 1: .* no thing has label 1 .the highest is 2147483647."):
        checked([0, 2**31 - 1])
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize("count, expected", [(5, [0, 25, 50, 75, 100]), (1000, list(range(101))), (0, []), (1, [0])])
def test_a_sample_is_spread_from_the_first_to_the_last(count, expected):
    assert evenly_spread(101, count).tolist() == expected
