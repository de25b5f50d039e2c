"""Curves of verification as matplotlib figures, for the report and for VisualDL."""

import numpy as np
from matplotlib.figure import Figure

from arcface.io.figures import COLOURS, plain
from arcface.verification.roc import Roc, tar_band

FAR_LABEL, TAR_LABEL = "false accept rate (FAR)", "true accept rate (TAR)"
SAME, DIFFERENT = COLOURS[0], COLOURS[1]


def roc_figure(curves: dict[str, Roc]) -> Figure:
    """TAR over FAR for each set by name, FAR on a log axis, with 95 % bootstrap bands where pairs are enough."""
    figure = Figure((8, 5), layout="constrained")
    axes = figure.subplots()
    lowest = min(1 / roc.negatives for roc in curves.values())
    fars = np.geomspace(lowest, 1, 200)
    for (name, roc), colour in zip(curves.items(), COLOURS * (1 + len(curves) // len(COLOURS)), strict=False):
        axes.step(np.maximum(roc.far, lowest / 10), roc.tar, where="post", color=colour, linewidth=1.8, label=name)
        low, high = tar_band(roc, fars)
        axes.fill_between(fars, low, high, color=colour, alpha=0.18, linewidth=0, step="post")
    seen = [value for roc in curves.values() for value in roc.tar[roc.far >= lowest]]
    floor = max(0.0, np.floor(min(seen) * 20 - 0.2) / 20)
    axes.set(xscale="log", xlim=(lowest, 1), ylim=(floor, 1 + 0.02 * (1 - floor)), xlabel=FAR_LABEL, ylabel=TAR_LABEL)
    axes.legend(loc="lower right", frameon=False)
    return plain(figure)


def histogram_figure(similarities: np.ndarray, is_same: np.ndarray, threshold: float) -> Figure:
    """Share of the pairs of one identity and of two over their similarity, float [n], with a threshold, unless that is inf."""
    figure = Figure((8, 3.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(similarities.min(), similarities.max() + 1e-6, 81)
    for chosen, colour, label in ((~is_same, DIFFERENT, "different identities"), (is_same, SAME, "same identity")):
        weights = np.full(np.count_nonzero(chosen), 100 / np.count_nonzero(chosen))
        axes.hist(similarities[chosen], bins.tolist(), weights=weights, color=colour, alpha=0.55, label=label)
    if np.isfinite(threshold):
        axes.axvline(threshold, color="#222222", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3f}")
    axes.set(xlabel="cosine similarity", ylabel="% of these pairs")
    axes.legend(loc="best", frameon=False)
    return plain(figure)


def thinned(roc: Roc, points: int = 200) -> dict[str, list[float]]:
    """Return FAR and TAR at thresholds spread evenly over the log FAR axis: enough for a picture, little to store."""
    fars = np.geomspace(1 / roc.negatives, 1, points)
    chosen = np.searchsorted(roc.far, fars, side="right") - 1
    return {"far": fars.round(9).tolist(), "tar": roc.tar[chosen].round(6).tolist()}


def thinned_figure(name: str, curve: dict[str, list[float]]) -> Figure:
    """TAR over FAR of one set, from what `thinned` returned."""
    figure = Figure((8, 5), layout="constrained")
    axes = figure.subplots()
    axes.step(curve["far"], curve["tar"], where="post", color=COLOURS[0], linewidth=1.8, label=name)
    axes.set(xscale="log", xlim=(curve["far"][0], 1), ylim=(0, 1.02), xlabel=FAR_LABEL, ylabel=TAR_LABEL)
    axes.legend(loc="lower right", frameon=False)
    return plain(figure)
