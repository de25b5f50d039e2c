"""Equal images: what stands for an image's bytes, and the search for images that occur again."""

import hashlib

import numpy as np

UNKNOWN = 0  # the hash of an image that could not be read, or was not read yet


def image_hash(encoded: bytes) -> int:
    """Return a number of 64 bits that stands for an image's bytes when images are compared.

    That any two of 100 million different images share it has a probability of 0.0003.
    """
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def find_copies(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where hashes, uint64 [n], occur again: the indices of the copies, ascending, and of the first image of each.

    Both int64 [copies]. Hashes that are UNKNOWN equal no other.
    """
    known = np.flatnonzero(hashes != UNKNOWN)
    _, first, group = np.unique(hashes[known], return_index=True, return_inverse=True)
    first = known[first[group]]
    is_copy = first != known
    return known[is_copy], first[is_copy]
