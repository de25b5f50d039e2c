"""First values of the class centres, the same for any number of ranks."""

import numpy as np

from arcface.rng import Stream, rng

CLASSES_PER_KEY = 1024  # centres are drawn for so many classes together, by one key
STANDARD_DEVIATION = 0.01


def initial_centres(start: int, stop: int, embedding_size: int, seed: int) -> np.ndarray:
    """Return the centres of the classes start .. stop - 1: float32 [classes, embedding_size], normal around 0.

    Each depends on its class and the seed only.
    """
    centres = np.empty((stop - start, embedding_size), np.float32)
    for key in range(start // CLASSES_PER_KEY, -(-stop // CLASSES_PER_KEY)):
        first = key * CLASSES_PER_KEY
        draw = rng(Stream.CLASS_CENTRES, seed, key)
        values = draw.standard_normal((CLASSES_PER_KEY, embedding_size), np.float32) * np.float32(STANDARD_DEVIATION)
        low, high = max(start, first), min(stop, first + CLASSES_PER_KEY)
        centres[low - start : high - start] = values[low - first : high - first]
    return centres
