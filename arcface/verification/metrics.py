"""The figures of face verification, as pure functions on NumPy arrays.

The protocol is that of Labeled Faces in the Wild (Huang, Ramesh, Berg and Learned-Miller, "Labeled Faces in
the Wild: A Database for Studying Face Recognition in Unconstrained Environments", technical report 07-49,
University of Massachusetts, Amherst, 2007): ten folds, and for each the threshold that is best on the other
nine. Distance and thresholds are those of InsightFace's evaluation, so that the results compare.
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
        thresholds: float64 [folds], the threshold that each fold was given.
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
    distances: np.ndarray, same: np.ndarray, folds: int = 10, thresholds: np.ndarray = THRESHOLDS
) -> KFoldAccuracy:
    """Accuracy of "same if distance < threshold", each fold with the threshold that is best on the others.

    Folds are contiguous and not shuffled, as `sklearn.model_selection.KFold` makes them: the first n % folds
    of them have one pair more. Of equally good thresholds the first is taken. With fewer pairs than folds,
    each pair is a fold; a single pair, which leaves nothing to choose on, gets the first threshold.

    Args:
        distances: float [n].
        same: bool [n], whether pair i shows one person.
        folds: at least 1.
        thresholds: float [t], at least one, in any order.

    Raises:
        ValueError: no pairs, no thresholds, fewer than one fold, or shapes that do not agree.
    """
    distances, same = np.asarray(distances, np.float64), np.asarray(same, bool)
    thresholds = np.asarray(thresholds, np.float64)
    if distances.ndim != 1 or distances.shape != same.shape or not len(distances):
        raise ValueError(f"distances {distances.shape} and same {same.shape} are not those of n > 0 pairs")
    if thresholds.ndim != 1 or not len(thresholds) or folds < 1:
        raise ValueError(f"{folds} folds and thresholds {thresholds.shape}: at least one of each is needed")
    folds = min(folds, len(same))
    parts = list(zip(np.array_split(distances, folds), np.array_split(same, folds)))
    # Whole numbers, so that equally good thresholds are exactly equal.
    right = np.array([_count_right(*part, thresholds) for part in parts])  # [folds, t]
    best = np.argmax(right.sum(axis=0) - right, axis=1)  # the first maximum on the other folds
    accuracies = right[np.arange(folds), best] / [len(flags) for _, flags in parts]
    return KFoldAccuracy(float(accuracies.mean()), float(accuracies.std()), accuracies, thresholds[best])


def _count_right(distances: np.ndarray, same: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """For each threshold, int64 [t]: how many pairs "distance < threshold" classifies rightly."""
    accepted_same = np.searchsorted(np.sort(distances[same]), thresholds, side="left")
    accepted_different = np.searchsorted(np.sort(distances[~same]), thresholds, side="left")
    return accepted_same + (np.count_nonzero(~same) - accepted_different)


def mean_norm(embeddings: np.ndarray) -> float:
    """Mean L2 norm of embeddings float [n, D], n > 0, before normalisation: "XNorm" in the field's logs."""
    return float(np.linalg.norm(np.asarray(embeddings, np.float64), axis=1).mean())
