"""Random numbers that are a function of a key, not of how many were drawn before.

Every random decision of a run takes its generator from here, keyed by its purpose and by what it concerns (seed,
epoch, class, ...). So neither the number of workers or ranks nor a resume changes any of them, and the state of the
"random number generator" that a checkpoint has to hold is the seed and the step.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for; the first part of the key, so that two uses never share a stream."""

    ORDER = 1
    FLIP = 2
    CLASS_CENTRES = 3
    NEGATIVE_CLASSES = 4
    AUGMENTATION = 5
    VERIFICATION_PAIRS = 6


def rng(stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator that belongs to the key (integers >= 0), at its beginning."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([stream, *key])))
