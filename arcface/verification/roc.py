"""ROC, TAR at a FAR, area and equal error rate of pairs, as pure functions on NumPy arrays.

All are on cosine similarities: "accept if similarity >= threshold". A false accept mistakes two identities for one; FAR is the
fraction of the negative pairs (two identities) and TAR that of the positive pairs (one identity) that are accepted. For unit
vectors, similarity = 1 - squared distance / 2.

The counts of a ROC and its area are scikit-learn's. It takes a second to import, which waits until it is needed.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from arcface.verification.metrics import checked_pairs

FAR_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, eq=False)
class Roc:
    """Receiver operating characteristic: how many pairs are accepted at each threshold on the similarity.

    Attributes:
        thresholds: float64 [t], strictly descending: inf, which accepts nothing, then each similarity observed.
        true_accepts: int64 [t], the positive pairs with similarity >= threshold; the last entry is all of them.
        false_accepts: int64 [t], the same of the negative pairs.
    """

    thresholds: np.ndarray
    true_accepts: np.ndarray
    false_accepts: np.ndarray

    @property
    def positives(self) -> int:
        """Number of pairs of one identity."""
        return int(self.true_accepts[-1])

    @property
    def negatives(self) -> int:
        """Number of pairs of two identities."""
        return int(self.false_accepts[-1])

    @property
    def tar(self) -> np.ndarray:
        """True accept rate at each threshold, float64 [t], ascending from 0 to 1."""
        return self.true_accepts / self.positives

    @property
    def far(self) -> np.ndarray:
        """False accept rate at each threshold, float64 [t], ascending from 0 to 1."""
        return self.false_accepts / self.negatives


class OperatingPoint(NamedTuple):
    """What a set of pairs says of a target FAR; TAR and threshold are None where it has too few negatives to say."""

    far: float
    tar: float | None
    threshold: float | None


def roc(similarities: np.ndarray, is_same: np.ndarray) -> Roc:
    """The ROC of pairs, with a point for each distinct similarity.

    Args:
        similarities: float [n], finite.
        is_same: bool [n], whether pair i shows one identity; both kinds occur.

    Raises:
        ValueError: a similarity that is not finite, only one kind of pair, or shapes that do not agree.
    """
    from sklearn.metrics import roc_curve

    similarities, is_same = checked_pairs(similarities, is_same, "similarities")
    positives, negatives = np.count_nonzero(is_same), np.count_nonzero(~is_same)
    _check_both_kinds(bool(positives), bool(negatives))
    far, tar, thresholds = roc_curve(is_same, similarities, drop_intermediate=False)  # dropped points would be thresholds too
    # Rates of whole numbers: rounding gives these back exactly up to 2**51 pairs.
    return Roc(thresholds, *(np.rint(rate * count).astype(np.int64) for rate, count in ((tar, positives), (far, negatives))))


def roc_from_counts(thresholds: np.ndarray, positives_per_threshold: np.ndarray, negatives_per_threshold: np.ndarray) -> Roc:
    """The ROC of histograms of similarity, for streams of more pairs than can be held.

    Args:
        thresholds: float [t], finite, the lower edges of the bins: threshold i accepts all pairs of bin i. In any
            order, so that `np.histogram`'s ascending bins do; bins of equal thresholds are added up.
        positives_per_threshold: int or bool [t], how many pairs of one identity lie in each bin.
        negatives_per_threshold: the same of pairs of two identities.

    Returns:
        A point for each threshold whose bin contains a pair.

    Raises:
        ValueError: a threshold that is not finite, a count that is negative or no integer, only one kind of
            pair, or shapes that do not agree.
    """
    thresholds = np.asarray(thresholds, np.float64)
    counts = np.asarray(positives_per_threshold), np.asarray(negatives_per_threshold)
    if thresholds.ndim != 1 or any(count.shape != thresholds.shape for count in counts):
        raise ValueError(f"thresholds {thresholds.shape} and counts {counts[0].shape}, {counts[1].shape} do not agree")
    if any(count.dtype.kind not in "biu" or (count < 0).any() for count in counts):
        raise ValueError("counts of pairs are whole numbers from 0")
    if not np.isfinite(thresholds).all():
        raise ValueError("a threshold is not finite")
    _check_both_kinds(*(bool(count.any()) for count in counts))
    # Not scikit-learn's, which would want each bin twice, with weights: cumulative sums of whole numbers are all it takes.
    occupied = np.flatnonzero((counts[0] > 0) | (counts[1] > 0))
    order = occupied[np.argsort(thresholds[occupied])[::-1]]
    descending = thresholds[order]
    last_of_ties = np.append(descending[1:] != descending[:-1], True)
    accepts = [np.cumsum(count[order], dtype=np.int64)[last_of_ties] for count in counts]
    return Roc(np.append(np.inf, descending[last_of_ties]), *(np.append(0, count) for count in accepts))


def _check_both_kinds(has_positives: bool, has_negatives: bool) -> None:
    if not (has_positives and has_negatives):
        raise ValueError("a ROC needs pairs of one identity and pairs of two identities")


def best_threshold(roc: Roc) -> tuple[float, int]:
    """The threshold with the fewest mistakes over all pairs, and how many mistakes that is.

    Exact: a mistake is a pair on the wrong side of "accept if similarity >= threshold", and the number of them changes at
    similarities that are observed only. Of equally good thresholds the highest counts; inf, where it is best to
    accept nothing. It is chosen on the pairs that it judges, so its accuracy is optimistic: `kfold_accuracy` gives the honest one.
    """
    mistakes = roc.false_accepts + (roc.positives - roc.true_accepts)
    best = int(np.argmin(mistakes))
    return float(roc.thresholds[best]), int(mistakes[best])


def auc(roc: Roc) -> float:
    """Area under the ROC: how likely a positive pair is more similar than a negative one, ties counting half.

    That is Mann and Whitney's U over the number of its comparisons, and the area of the curve's trapezoids.
    """
    from sklearn.metrics import auc as area

    # Of counts, not rates: exact while it is below 2**53, and float64, since int64 might overflow.
    counts = area(roc.false_accepts.astype(np.float64), roc.true_accepts.astype(np.float64))
    return float(counts) / (roc.positives * roc.negatives)


def equal_error_rate(roc: Roc) -> tuple[float, float]:
    """The rate at which FAR equals 1 - TAR, and its threshold.

    Where no point has equal rates, both figures are interpolated linearly between the two neighbouring points;
    beside the point at inf, which accepts nothing, the threshold is that of the other neighbour.
    """
    positives, negatives = roc.positives, roc.negatives

    def excess(point: int) -> int:  # of FAR over 1 - TAR, as a multiple that is whole, so that equality is exact
        return int(roc.false_accepts[point]) * positives + (int(roc.true_accepts[point]) - positives) * negatives

    after = bisect_left(range(len(roc.thresholds)), 0, key=excess)
    before = after - 1  # never -1: at inf the excess is negative
    back = excess(after) / (excess(after) - excess(before))  # how far from `after` towards `before`
    rate = (roc.false_accepts[after] - back * (roc.false_accepts[after] - roc.false_accepts[before])) / negatives
    threshold = roc.thresholds[after]
    if before > 0:
        threshold = threshold + back * (roc.thresholds[before] - threshold)
    return float(rate), float(threshold)


def tar_at_far(roc: Roc, targets: ArrayLike = FAR_TARGETS) -> list[OperatingPoint]:
    """For each target FAR, the lowest threshold observed whose FAR does not exceed it, and the TAR there.

    Nothing is interpolated: an operator who sets this threshold gets at most the target FAR on these pairs.
    InsightFace's verification interpolates the threshold linearly between points, and its IJB scripts take the
    point of nearest FAR; either may exceed the target. Where one false accept alone would exceed the target,
    TAR and threshold are None, since so few negative pairs do not measure such a FAR. Where the highest
    similarity already accepts too many negative pairs, the threshold is inf and TAR 0.

    Raises:
        ValueError: a target that is not from 0 to 1.
    """
    rates = _checked_rates(targets)
    chosen = np.searchsorted(roc.far, rates, side="right") - 1
    tars, thresholds = roc.true_accepts[chosen] / roc.positives, roc.thresholds[chosen]
    points = map(OperatingPoint, rates.tolist(), tars.tolist(), thresholds.tolist())
    return [point if 1 / roc.negatives <= point.far else OperatingPoint(point.far, None, None) for point in points]


def tar_band(roc: Roc, fars: ArrayLike, resamples: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % confidence band of the TAR at each FAR, by the percentile bootstrap over pairs (Efron, 1979).

    Positive and negative pairs are resampled apart, each with replacement, and TAR is that of `tar_at_far`. Pairs
    are treated as independent, which understates the uncertainty where an identity occurs in several of them.

    A resample is drawn without drawing its pairs, in the same distribution: of N negatives, the one that ranks
    (k + 1)-th in the resample has the original rank floor(N * u), where u, as the (k + 1)-th smallest of N
    uniform numbers, is Beta(k + 1, N - k) distributed; and the number of positives above it is binomial.

    Args:
        roc: of the pairs.
        fars: float [f], each from 0 to 1.
        resamples: at least 1.
        seed: equal seeds give equal bands, with one version of NumPy.

    Returns:
        The 2.5th and the 97.5th percentile, each float64 [f]; NaN where `tar_at_far` gives None.

    Raises:
        ValueError: a FAR that is not from 0 to 1, or fewer than one resample.
    """
    rates = _checked_rates(fars)
    if resamples < 1:
        raise ValueError(f"{resamples} resamples: at least one is needed")
    positives, negatives, generator = roc.positives, roc.negatives, np.random.default_rng(seed)
    allowed = np.floor(rates * negatives).astype(np.int64)  # k false accepts, or a neighbour by rounding
    allowed += (allowed + 1) / negatives <= rates
    allowed -= allowed / negatives > rates
    rejects = allowed < negatives  # a FAR of 1 accepts everything
    uniform = generator.beta(allowed + 1, np.where(rejects, negatives - allowed, 1), (resamples, len(rates)))
    rank = np.minimum((negatives * uniform).astype(np.int64), negatives - 1)
    # The lowest threshold above that negative's similarity; what ties with the negative is rejected too.
    point = np.where(rejects, np.searchsorted(roc.false_accepts, rank, side="right") - 1, -1)
    tars = generator.binomial(positives, roc.true_accepts[point] / positives) / positives
    band = np.percentile(tars, [2.5, 97.5], axis=0, method="inverted_cdf")
    low, high = np.where(allowed > 0, band, np.nan)
    return low, high


def _checked_rates(rates: ArrayLike) -> np.ndarray:
    """Return float64 [f], all from 0 to 1; raises ValueError otherwise."""
    array = np.asarray(rates, np.float64)
    if array.ndim != 1 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"false accept rates are a list of numbers from 0 to 1, not {array.tolist()}")
    return array
