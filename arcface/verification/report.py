"""The report of a verification: one self-contained HTML page, with its curves as PNG beside it."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader

from arcface.data.verification_set import VerificationSet
from arcface.errors import UserError
from arcface.io.figures import png
from arcface.io.files import atomic_write
from arcface.verification.evaluator import Verification
from arcface.verification.identification import Identification
from arcface.verification.plots import histogram_figure, roc_figure
from arcface.verification.roc import FAR_TARGETS, OperatingPoint, Roc, auc, best_threshold, equal_error_rate, tar_at_far
from arcface.verification.thresholds import FIGURES

PAGE = "index.html"
WORST = 20


@dataclass(frozen=True, eq=False)
class Mistake:
    """A pair on the wrong side of the threshold: its number in the set, similarity, and two encoded images."""

    pair: int
    similarity: float
    images: tuple[bytes, bytes]


@dataclass(frozen=True, eq=False)
class SetReport:
    """What the report says of a set.

    Attributes:
        name: the set's name.
        curve: its ROC on cosine similarities.
        xnorm, accuracy, std: as in the log lines; None for a protocol that has none.
        threshold: the cosine similarity with the fewest mistakes over all pairs; inf where it is best to accept none.
        histogram: PNG, or None where the similarities are not kept.
        false_accepts, false_rejects: the worst mistakes at the threshold, worst first.
        counts: how many false accepts and false rejects there are.
    """

    name: str
    curve: Roc
    xnorm: float | None = None
    accuracy: float | None = None
    std: float | None = None
    threshold: float | None = None
    histogram: bytes | None = None
    false_accepts: Sequence[Mistake] = ()
    false_rejects: Sequence[Mistake] = ()
    counts: tuple[int, int] = (0, 0)

    @cached_property
    def points(self) -> list[OperatingPoint]:
        """TAR and threshold at each of FAR_TARGETS."""
        return tar_at_far(self.curve)

    @cached_property
    def auc(self) -> float:
        """Area under the curve."""
        return auc(self.curve)

    @cached_property
    def eer(self) -> float:
        """Equal error rate."""
        return equal_error_rate(self.curve)[0]


def report_pairs(pairs: VerificationSet, result: Verification) -> SetReport:
    """Collect what the report says of a set of pairs."""
    similarities = result.similarities
    threshold, _ = best_threshold(result.curve)
    accepted = similarities >= threshold

    def worst(wrong: np.ndarray, sign: int) -> list[Mistake]:
        order = wrong[np.argsort(sign * similarities[wrong], kind="stable")][:WORST]
        return [
            Mistake(int(pair), float(similarities[pair]), (_shown(pairs, 2 * pair), _shown(pairs, 2 * pair + 1))) for pair in order
        ]

    false_accepts, false_rejects = np.flatnonzero(accepted & ~pairs.is_same), np.flatnonzero(~accepted & pairs.is_same)
    return SetReport(
        pairs.name,
        result.curve,
        result.xnorm,
        result.accuracy.mean,
        result.accuracy.std,
        threshold,
        png(histogram_figure(similarities, pairs.is_same, threshold)),
        worst(false_accepts, -1),
        worst(false_rejects, 1),
        (len(false_accepts), len(false_rejects)),
    )


def _shown(pairs: VerificationSet, position: int) -> bytes:
    """Return an image of a set as browsers show it: as a .bin has it, or the crop of a file, which may be of any kind and size."""
    if isinstance(image := pairs.images[position], bytes):
        return image
    return cv2.imencode(".png", pairs.crop(position)[::-1].transpose(1, 2, 0))[1].tobytes()


def write_report(
    folder: Path,
    sets: Sequence[SetReport],
    settings: dict[str, object],
    identifications: Mapping[str, Identification] = MappingProxyType({}),
) -> Path:
    """Write index.html, report.json, roc.png and histogram_<set>.png into a folder, and return the page.

    `settings` is the table of the run, and `identifications` are those of protocols by name; report.json has it and the page's
    figures for programs. Raises UserError if the files cannot be written.
    """
    pictures = {"roc.png": png(roc_figure({one.name: one.curve for one in sets}))} if sets else {}
    pictures |= {f"histogram_{one.name}.png": one.histogram for one in sets if one.histogram}
    templates = Environment(loader=PackageLoader("arcface.verification", "."), autoescape=True)
    templates.filters["image"] = _data_uri
    page = templates.get_template("report.html").render(
        sets=sets,
        settings=settings,
        targets=FAR_TARGETS,
        pictures=pictures,
        identifications=identifications,
        names=[*{one.name: None for one in sets} | dict.fromkeys(identifications)],
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (*pictures.items(), (FIGURES, _figures(sets, settings, identifications)), (PAGE, page.encode())):
            with atomic_write(folder / name) as file:
                file.write(content)
    except OSError as error:
        raise UserError(f"--report {folder}: cannot be written ({error.strerror}); choose another directory") from error
    return folder / PAGE


def _figures(sets: Sequence[SetReport], settings: dict[str, object], identifications: Mapping[str, Identification]) -> bytes:
    """Return report.json: what is not known, or not measured by a set, is null."""
    figures = [
        {
            "name": one.name,
            "positives": one.curve.positives,
            "negatives": one.curve.negatives,
            "xnorm": one.xnorm,
            "accuracy": one.accuracy,
            "std": one.std,
            "auc": one.auc,
            "eer": one.eer,
            "tar_at_far": [point._asdict() for point in one.points],
        }
        for one in sets
    ]
    found = [
        {"name": name, "rank": one.rates, "tpir_at_fpir": [{"fpir": fpir, "tpir": tpir} for fpir, tpir, _ in one.summary()]}
        for name, one in identifications.items()
    ]
    return json.dumps({"settings": settings, "sets": figures, "identifications": found}, indent=1, default=str).encode()


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
