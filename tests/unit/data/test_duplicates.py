"""Equal images have equal hashes, and each copy is found with the first image that it equals."""

import numpy as np
import pytest

from arcface.data.duplicates import UNKNOWN, find_copies, image_hash


def slow_copies(hashes) -> list[tuple[int, int]]:
    first: dict[int, int] = {}
    found = [(index, first.setdefault(value, index)) for index, value in enumerate(hashes) if value != UNKNOWN]
    return [(index, original) for index, original in found if index != original]


@pytest.mark.parametrize("images, different", [(0, 1), (1, 1), (30, 1), (30, 5), (500, 300)])
def test_copies_are_those_of_a_slow_loop_and_what_is_unknown_equals_nothing(images, different):
    hashes = np.random.default_rng(images).integers(UNKNOWN, different + 1, images, dtype=np.uint64)
    copies, originals = find_copies(hashes)
    assert list(zip(copies.tolist(), originals.tolist(), strict=True)) == slow_copies(hashes.tolist())


def test_a_hash_tells_a_bit_and_fits_64_bits():
    hashes = {image_hash(bytes(100)), image_hash(bytes(99)), image_hash(b"\1" + bytes(99)), image_hash(b"")}
    assert len(hashes) == 4 and max(hashes) < 2**64 and np.array(list(hashes), np.uint64).dtype == np.uint64
