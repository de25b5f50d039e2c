"""Picture of a run: its loss over the steps, and the last ROC curve of each verification set."""

import json
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arcface.io.figures import COLOURS, png
from arcface.io.files import atomic_write
from arcface.training.metrics_writer import CURVES_FILE, METRICS_FILE
from arcface.verification.plots import FAR_LABEL, TAR_LABEL

SMOOTHED_FROM = 60  # log lines; below that the loss is drawn as it is
INK, FAINT = "#333333", "#e2e2e2"


def draw_curves(logdir: Path) -> Path:
    """Draw metrics.jsonl of `logdir` as curves.png beside it, replace an earlier one, and return its path.

    Lines that a crash cut off are left out. A run without a verification has no ROC beside its loss, and one whose steps
    were all skipped an empty loss. Raises OSError where there is no metrics.jsonl, or curves.png cannot be written.
    """
    records = _records(logdir / METRICS_FILE)
    losses = [(record["step"], record["loss"]) for record in records if record["kind"] == "training" and "loss" in record]
    verifications = {record["kind"].split("/", 1)[1]: record for record in records if record["kind"].startswith("verification/")}
    figure = Figure((11, 4) if verifications else (6.5, 4), layout="constrained")
    panels = figure.subplots(1, 2 if verifications else 1, squeeze=False)[0]
    _draw_loss(panels[0], np.array(losses, np.float64).reshape(-1, 2))
    if verifications:
        _draw_rocs(panels[1], verifications)
    with atomic_write(logdir / CURVES_FILE) as file:
        file.write(png(figure))
    return logdir / CURVES_FILE


def _records(file: Path) -> list[dict]:
    """Return the records of a metrics.jsonl without the lines that are none."""
    records = []
    for line in file.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"step", "kind"} <= record.keys():
            records.append(record)
    return records


def _draw_loss(axes: Axes, losses: np.ndarray) -> None:
    """Draw losses [n, 2] of step and loss; of many, a running mean over the faint line of all."""
    steps, loss = losses.T
    if len(loss) >= SMOOTHED_FROM:
        axes.plot(steps, loss, color=COLOURS[0], alpha=0.25, linewidth=0.8)
        width = len(loss) // 30
        sums = np.cumsum(np.insert(loss, 0, 0.0))
        steps, loss = steps[width - 1 :], (sums[width:] - sums[:-width]) / width
    axes.plot(steps, loss, color=COLOURS[0], linewidth=2.2, solid_capstyle="round")
    if len(loss):
        axes.plot(steps[-1], loss[-1], "o", color=COLOURS[0], markersize=5)
        # Left of the line's end and below it, where a loss that falls leaves room.
        axes.annotate(
            f"{loss[-1]:.2f}", (steps[-1], loss[-1]), (-8, 1), textcoords="offset points", ha="right", va="top", color=COLOURS[0]
        )
    axes.set(xlabel="step", ylabel="loss", xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes, "Training loss")


def _draw_rocs(axes: Axes, verifications: dict[str, dict]) -> None:
    """Draw the ROC of each set's record, TAR over FAR on a log axis."""
    lowest_far, lowest_tar = 1.0, 1.0
    for (name, record), colour in zip(verifications.items(), cycle(COLOURS), strict=False):
        far, tar = (np.array(record["roc"][key], np.float64) for key in ("far", "tar"))
        label = f"{name}: accuracy {record['accuracy']:.3f} at step {record['step']:,}"
        axes.step(far, tar, where="post", color=colour, linewidth=2.2, label=label)
        lowest_far, lowest_tar = min(lowest_far, far[0]), min(lowest_tar, tar.min())
    chance = np.geomspace(lowest_far, 1, 100)
    axes.plot(chance, chance, color="#999999", linewidth=1, linestyle=(0, (4, 3)), label="chance")
    bottom = max(0.0, np.floor(lowest_tar * 10 - 0.5) / 10)
    axes.set(xscale="log", xlim=(lowest_far, 1), ylim=(bottom, 1 + 0.02 * (1 - bottom)), xlabel=FAR_LABEL, ylabel=TAR_LABEL)
    axes.legend(loc="best", frameon=False, labelcolor=INK)
    _finish(axes, "Verification")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontweight="bold")
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(which="both", colors="#999999", labelcolor=INK)
    axes.margins(y=0.1)
