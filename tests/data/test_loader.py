"""Batches are the same whatever the number of ranks and workers; bad images are left out and reported."""

import numpy as np
import pytest

from arcface.data.label_file import LabelFile
from arcface.data.loader import NOT_COUNTED, UNREADABLE, Batches, load
from arcface.errors import UserError
from arcface.images import decode


@pytest.fixture(scope="module")
def source(make_data_set):
    return LabelFile(str(make_data_set(22, 3)))


def loaded(batches, first, last, workers):
    return [(images.numpy(), labels.numpy()) for images, labels in load(batches, first, last, workers)]


def test_a_batch_holds_the_decoded_images_in_the_order_s_sequence_with_its_flips(source):
    batches = Batches(source, 8, seed=1, rank=0, world_size=1)
    for step in range(6):  # two epochs
        images, labels = batches[step]
        assert images.dtype == np.uint8 and images.shape == (8, 3, 112, 112) and labels.dtype == np.int64
        for image, label, index, flip, padding in zip(images, labels, *batches._rows(step)):
            expected = decode(source.encoded(index), "")
            assert np.array_equal(image, expected[..., ::-1] if flip else expected)
            assert label == (NOT_COUNTED if padding else source.labels[index])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_and_where_a_run_starts_change_nothing(source, workers):
    batches = Batches(source, 8, seed=1, rank=0, world_size=1)
    results = loaded(batches, 2, 7, workers)
    assert len(results) == 5
    for step, (images, labels) in enumerate(results, 2):
        assert np.array_equal(images, batches[step][0]) and np.array_equal(labels, batches[step][1])


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_slices_together_are_the_global_batch(source, world_size):
    whole = Batches(source, 8, 1, 0, 1)
    ranks = [Batches(source, 8, 1, rank, world_size) for rank in range(world_size)]
    for step in range(4):
        parts = [rank[step] for rank in ranks]
        for kind in range(2):
            assert np.array_equal(np.concatenate([part[kind] for part in parts]), whole[step][kind])


def test_an_image_that_turns_bad_is_left_out_of_the_loss_and_reported_by_name(make_data_set):
    directory = make_data_set(8, 2)
    source = LabelFile(str(directory))
    (directory / "images" / "00000005.jpg").write_bytes(b"damaged")
    batches = Batches(source, 8, 0, 0, 1)
    ((_, labels),) = loaded(batches, 0, 1, 1)
    row = list(batches._rows(0)[0]).index(5)
    assert labels[row] == UNREADABLE and (np.delete(labels, row) >= 0).all()
    ((index, complaint),) = batches.complaints(0, labels).items()
    assert index == 5
    assert "label.txt line 6: images/00000005.jpg: not an image" in complaint


def test_a_global_batch_that_the_ranks_do_not_divide_is_refused(source):
    with pytest.raises(UserError, match="--batch_size 8 .* divisible by the 3 ranks; take 6"):
        Batches(source, 8, 0, 0, 3)
