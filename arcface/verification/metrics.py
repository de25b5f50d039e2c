"""The accuracy that the field quotes for a set of pairs, as pure functions on NumPy arrays.

It is that of Labeled Faces in the Wild (Huang, Ramesh, Berg and Learned-Miller, "Labeled Faces in the Wild: A Database for
Studying Face Recognition in Unconstrained Environments", technical report 07-49, University of Massachusetts, Amherst, 2007),
with the squared distances and thresholds of InsightFace's evaluation, so that the results compare: "same if distance <
threshold". `roc.py` has what an operator needs to choose a threshold.

The folds are scikit-learn's. It takes a second to import, which waits until it is needed.
"""

from dataclasses import dataclass

import numpy as np

# On the squared Euclidean distance of unit vectors, which lies between 0 and 4.
THRESHOLDS = np.arange(0, 4, 0.01)


@dataclass(frozen=True, eq=False)
class KFoldAccuracy:
    """Accuracy by k-fold cross-validation of the threshold.

    Attributes:
        mean, std: of the accuracies of the folds; the population standard deviation.
        accuracies: float64 [folds], the fraction of right answers on each fold.
        thresholds: float64 [folds], the threshold of each fold.
    """

    mean: float
    std: float
    accuracies: np.ndarray
    thresholds: np.ndarray


def squared_distances(embeddings: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances between the L2-normalised embeddings of pairs.

    Args:
        embeddings: float [2n, D]; rows 2 * i and 2 * i + 1 are pair i. A row of zeros stays as it is: its
            distance from any other row is 1, and 0 from another row of zeros.

    Returns:
        float64 [n], from 0 for the same direction to 4 for the opposite one.
    """
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or len(embeddings) % 2:
        raise ValueError(f"embeddings of pairs are [2n, D], not {list(embeddings.shape)}")
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.where(norms == 0, 1, norms)
    return np.square(unit[0::2] - unit[1::2]).sum(axis=1)


def kfold_accuracy(
    distances: np.ndarray, is_same: np.ndarray, folds: int = 10, thresholds: np.ndarray = THRESHOLDS
) -> KFoldAccuracy:
    """Accuracy of "same if distance < threshold", each fold with the threshold that is best on the others.

    Folds are those of `sklearn.model_selection.KFold`: contiguous, not shuffled, the first n % folds of them
    with one pair more. Of equally good thresholds the first counts. With fewer pairs than folds, each pair
    is a fold; a single fold, which leaves nothing to choose on, gets the first threshold.

    Args:
        distances: float [n].
        is_same: bool [n], whether pair i shows one identity.
        folds: at least 1.
        thresholds: float [t], at least one, in any order.

    Raises:
        ValueError: no pairs, a distance that is not finite, no thresholds or one that is NaN, fewer than one
            fold, or shapes that do not agree.
    """
    distances, is_same = checked_pairs(distances, is_same, "distances")
    thresholds = _checked_thresholds(thresholds)
    if folds < 1:
        raise ValueError(f"{folds} folds: at least one is needed")
    parts = _fold_members(len(is_same), min(folds, len(is_same)))
    # Whole numbers, so that equally good thresholds are exactly equal.
    right = np.array([_count_right(distances[part], is_same[part], thresholds) for part in parts])  # [folds, t]
    best = np.argmax(right.sum(axis=0) - right, axis=1)  # the first maximum on the other folds
    accuracies = right[np.arange(len(parts)), best] / [len(part) for part in parts]
    return KFoldAccuracy(float(accuracies.mean()), float(accuracies.std()), accuracies, thresholds[best])


def _fold_members(pairs: int, folds: int) -> list[np.ndarray]:
    """The indices of each fold's pairs, int64 [pairs of the fold]."""
    from sklearn.model_selection import KFold

    if folds == 1:  # which KFold, where each fold is the test of the others, does not make
        return [np.arange(pairs)]
    return [members for _, members in KFold(folds).split(np.empty(pairs))]


def _count_right(distances: np.ndarray, is_same: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """For each threshold, int64 [t]: how many pairs "distance < threshold" classifies rightly."""
    accepted_same = np.searchsorted(np.sort(distances[is_same]), thresholds, side="left")
    accepted_different = np.searchsorted(np.sort(distances[~is_same]), thresholds, side="left")
    return accepted_same + (np.count_nonzero(~is_same) - accepted_different)


def mean_norm(embeddings: np.ndarray) -> float:
    """Mean L2 norm of embeddings float [n, D], n > 0, before normalisation: "XNorm" in the field's logs."""
    return float(np.linalg.norm(np.asarray(embeddings, np.float64), axis=1).mean())


def checked_pairs(values: np.ndarray, is_same: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 [n], all finite, and bool [n], n > 0; raises ValueError otherwise."""
    values, is_same = np.asarray(values, np.float64), np.asarray(is_same, bool)
    if values.ndim != 1 or values.shape != is_same.shape or not len(values):
        raise ValueError(f"{name} {values.shape} and is_same {is_same.shape} are not those of n > 0 pairs")
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise ValueError(f"{bad} of {len(values)} {name} are not finite; the embeddings contain NaN or infinity")
    return values, is_same


def _checked_thresholds(thresholds: np.ndarray) -> np.ndarray:
    """Return float64 [t], t > 0, none NaN; raises ValueError otherwise."""
    thresholds = np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or np.isnan(thresholds).any():
        raise ValueError(f"thresholds {thresholds.shape}: at least one is needed, and none that is NaN")
    return thresholds
