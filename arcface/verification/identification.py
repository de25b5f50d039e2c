"""Identification, 1:N: each probe is searched in a gallery, as pure functions on NumPy arrays.

The figures are those of IJB and NIST (Grother, Ngan and Hanaoka, "Face Recognition Vendor Test, Part 2: Identification", NISTIR
8271; Maze et al., "IARPA Janus Benchmark - C", ICB 2018). A probe has a mate if an entry of the gallery shows its identity.

* Rank-k: of the probes with a mate, the share that has one among the k most similar entries.
* FPIR at a threshold: of the probes without a mate, the share whose most similar entry reaches the threshold.
* TPIR at a threshold: of the probes with a mate, the share whose most similar entry is a mate and reaches the threshold.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from arcface.verification.roc import OperatingPoint, roc, tar_at_far

FPIR_TARGETS = (1e-1, 1e-2)
_AT_ONCE = 2**24  # similarities, 64 MB


class Searches(NamedTuple):
    """What became of the searches for p probes in one gallery.

    Attributes:
        ranks: int64 [p], the place of the first mate when the gallery is ordered by falling similarity, from 1; 0 without a
            mate. An equally similar entry of another identity is placed before it.
        highest: float64 [p], the similarity of the most similar entry.
    """

    ranks: np.ndarray
    highest: np.ndarray


class Identification(NamedTuple):
    """The figures: the share of probes by rank, and TPIR by FPIR with the threshold of each gallery."""

    rates: dict[int, float]
    points: list[tuple[OperatingPoint, ...]]

    def summary(self) -> Iterator[tuple[float, float | None, str]]:
        """Yield each FPIR with the mean TPIR of the galleries, None where one has too few probes to say, and the thresholds."""
        for points in self.points:
            tpirs = [point.tar for point in points if point.tar is not None]
            mean = sum(tpirs) / len(tpirs) if len(tpirs) == len(points) else None
            yield points[0].far, mean, "" if mean is None else ", ".join(f"{point.threshold:.4f}" for point in points)


def search(probes: np.ndarray, probe_ids: np.ndarray, gallery: np.ndarray, gallery_ids: np.ndarray) -> Searches:
    """Search each probe in a gallery by cosine similarity.

    Args:
        probes, gallery: float [p, D] and [g, D], L2-normalised, p and g > 0.
        probe_ids, gallery_ids: int64 [p] and [g], the identities; one may have several entries.
    """
    ranks, highest = [], []
    rows = max(1, _AT_ONCE // len(gallery))
    for start in range(0, len(probes), rows):
        similarities = probes[start : start + rows] @ gallery.T
        mates = probe_ids[start : start + rows, None] == gallery_ids
        best = np.where(mates, similarities, -np.inf).max(axis=1, keepdims=True)
        before = np.count_nonzero((similarities >= best) & ~mates, axis=1)
        ranks.append(np.where(mates.any(axis=1), 1 + before, 0))
        highest.append(similarities.max(axis=1))
    return Searches(np.concatenate(ranks), np.concatenate(highest).astype(np.float64))


def rank_rates(searches: Sequence[Searches], ranks: Sequence[int]) -> dict[int, float]:
    """Return the share of each rank over the searches of all galleries; at least one probe has a mate."""
    found = np.concatenate([one.ranks[one.ranks > 0] for one in searches])
    return {rank: float(np.mean(found <= rank)) for rank in ranks}


def tpir_at_fpir(searches: Searches, targets: Sequence[float] = FPIR_TARGETS) -> list[OperatingPoint]:
    """For each target FPIR, below 1, the lowest similarity observed whose FPIR does not exceed it, and the TPIR there.

    As `tar_at_far`, of which this is the case where a search is a pair: TPIR and threshold are None where there are too few
    probes without a mate to say.
    """
    has_mate = searches.ranks > 0
    if has_mate.all():
        return [OperatingPoint(target, None, None) for target in targets]
    # A mate that is not first never counts: it is given a similarity below all others.
    similarities = np.where(has_mate & (searches.ranks != 1), -2.0, searches.highest)
    return tar_at_far(roc(similarities, has_mate), targets)
