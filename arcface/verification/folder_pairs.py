"""Pairs of a folder of identities, <identity>/<image>, made by a rule, so that nobody has to list them.

The set has the form of LFW's second view: ten folds, no identity in two of them, each with as many pairs of one identity as of
two, and up to 300 of either. Equal names and numbers of images give equal pairs on every machine.
"""

from pathlib import Path

import numpy as np

from arcface.data.datasets.image_folder import ImageFolder
from arcface.data.photos import CropReader
from arcface.data.verification_set import VerificationSet
from arcface.errors import UserError
from arcface.rng import Stream, rng

FOLDS = 10
MOST = 300  # pairs of one identity in a fold, and as many of two


def read_folder(directory: str | Path, name: str, reader: CropReader) -> VerificationSet:
    """List a folder of identities and pair its images; none of them is read, which is the `reader`'s part.

    Raises:
        UserError: the folder cannot be listed, or has too few identities for two folds.
    """
    folder = ImageFolder(directory)
    counts = np.bincount(folder.labels)
    folds = number_of_folds(counts)
    if folds < 2:
        raise UserError(
            f"{directory}: {np.count_nonzero(counts > 1)} of its {len(counts)} identities have two images or more; the accuracy"
            " needs pairs of at least four identities, two of them with two images or more: add images, or list pairs"
            " (--val_targets LIST=FOLDER)"
        )
    pairs, is_same = make_pairs(counts, folds)
    files = {int(index): Path(folder.name(int(index))) for index in np.unique(pairs)}
    half = len(is_same) // 2
    return VerificationSet(
        name,
        [files[index] for index in pairs.ravel().tolist()],
        is_same,
        folds,
        f"{directory} is a folder of {len(counts):,} identities: {half:,} pairs of one and {half:,} of two, in {folds} folds",
        reader,
    )


def number_of_folds(counts: np.ndarray) -> int:
    """Return how many folds identities with so many images, int64 [n], can have: in each two identities, one with two images."""
    return min(FOLDS, len(counts) // 2, int(np.count_nonzero(counts > 1)))


def make_pairs(counts: np.ndarray, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Pair the images of identities.

    The identities are dealt to the folds to and fro, those with the most images first. In each fold the identities take turns
    to give one of their pairs, and the pairs of identities one of theirs, all in random order, until there are no more, or
    MOST. Folds are then cut to the size of the smallest.

    Args:
        counts: int64 [n], the number of images of each identity, all above 0; images are numbered identity by identity.
        folds: from `number_of_folds`.

    Returns:
        int64 [pairs, 2], the images of each pair, fold by fold and in each the pairs of one identity first; and bool [pairs],
        which these are. No pair occurs twice.
    """
    first = np.cumsum(counts) - counts
    turn = np.arange(len(counts)) % (2 * folds)
    fold = np.minimum(turn, 2 * folds - 1 - turn)
    identities = np.argsort(-counts, kind="stable")
    made = []
    for number in range(folds):
        members, random = identities[fold == number], rng(Stream.VERIFICATION_PAIRS, number)
        made += [_of_one(members, counts, first, random), _of_two(members, counts, first, random)]
    size = min(map(len, made))
    return np.concatenate([pairs[:size] for pairs in made]), np.tile(np.repeat([True, False], size), folds)


def _of_one(members: np.ndarray, counts: np.ndarray, first: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return pairs of images of one identity, int64 [up to MOST, 2]."""
    members = members[counts[members] > 1]
    source, number = _in_turn(counts[members] * (counts[members] - 1) // 2, random)
    low, high = _pair_of_number(number)
    start = first[members[source]]
    return np.column_stack([start + low, start + high])


def _of_two(members: np.ndarray, counts: np.ndarray, first: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return pairs of images of two identities, int64 [up to MOST, 2]."""
    possible = len(members) * (len(members) - 1) // 2
    one, other = (members[index] for index in _pair_of_number(random.choice(possible, min(possible, MOST), replace=False)))
    source, number = _in_turn(counts[one] * counts[other], random)
    one, other = one[source], other[source]
    return np.column_stack([first[one] + number // counts[other], first[other] + number % counts[other]])


def _in_turn(sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Let sources, which have `sizes` things each, give one in turn until there are MOST; return whose and which, int64 [k]."""
    order = random.permutation(len(sizes))[:MOST]
    drawn = [random.choice(sizes[source], min(sizes[source], MOST), replace=False) for source in order]
    sources, turns = np.repeat(order, list(map(len, drawn))), np.concatenate([np.arange(len(things)) for things in drawn])
    given = np.argsort(turns, kind="stable")[:MOST]
    return sources[given], np.concatenate(drawn)[given]


def _pair_of_number(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs low < high in the order (0, 1), (0, 2), (1, 2), (0, 3), ... that have these numbers from 0, int64 [k]."""
    high = ((1 + np.sqrt(1 + 8 * number)) // 2).astype(np.int64)
    return number - high * (high - 1) // 2, high
