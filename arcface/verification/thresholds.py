"""Thresholds from the report of a verification, report.json."""

import json
import math
from pathlib import Path
from typing import Any

from arcface.config import CompareConfig
from arcface.errors import UserError
from arcface.io.files import read_file

FIGURES = "report.json"  # in the directory of a report


def threshold_of(config: CompareConfig) -> tuple[float, str]:
    """Return the threshold on the cosine similarity that the options ask for, and where it is from, in words.

    Raises UserError if they ask for none or two, or the report cannot be read, is of another network or has no such threshold.
    """
    if (config.threshold is None) == (config.report is None):
        raise UserError("--threshold and --report: one of them is required, not both; valid.py --report writes a report")
    if config.report is None:
        assert config.threshold is not None
        return config.threshold, "--threshold"
    file = Path(config.report)
    if file.is_dir():
        file /= FIGURES
    report = _read(file)
    for name in ("network", "embedding_size"):
        if (theirs := report["settings"].get(name)) != (ours := getattr(config, name)):
            raise UserError(f"{file}: is of {name} {theirs}, not {ours}, and thresholds fit one model; pass its own report")
    one = _chosen(report["sets"], config.set, file)
    points = {float(point["far"]): point["threshold"] for point in one["tar_at_far"]}
    known = [f"{far:g}" for far, threshold in points.items() if threshold is not None]
    threshold = next((threshold for far, threshold in points.items() if math.isclose(far, config.far)), None)
    if threshold is None:
        raise UserError(
            f"{file}: {one['name']} has {one['negatives']:,} pairs of two identities and tells no threshold at FAR {config.far:g};"
            f" pass --far {' or '.join(known) or 'and the report of a larger set'}, or a --threshold"
        )
    return float(threshold), f"FAR {config.far:g} on {one['name']}"


def _chosen(sets: list[dict[str, Any]], name: str | None, file: Path) -> dict[str, Any]:
    names = [one["name"] for one in sets]
    if name is None and len(sets) == 1:
        return sets[0]
    if name not in names:
        raise UserError(f"{file}: has the sets {', '.join(names)}; name the one whose threshold to use with --set")
    return sets[names.index(name)]


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(read_file(file))
        for one in report["sets"]:
            _ = one["name"], int(one["negatives"])
            for point in one["tar_at_far"]:
                _ = float(point["far"]), point["threshold"] is None or float(point["threshold"])
        report["settings"].get("network")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); pass what valid.py --report wrote") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: not what valid.py --report writes ({error!r}); pass its report.json or directory") from error
    return report
