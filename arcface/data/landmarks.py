"""Checks of landmarks: whether they fit a face in the order of `arcface.data.alignment.TEMPLATE`, and if not, which order does."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from arcface.data.alignment import TEMPLATE

# From YuNet's points of 807 photos, the first fold of LFW. Their misfit is 0.024 to 0.386 (Phil_Gramm_0002, a head in profile);
# the median of 100 photos in a row is 0.133 at most, three times which is the limit of a list's. In any other of the orders
# below these medians are 0.564 or more, but for the one that turns faces by 90 degrees; in x1 ... x5 y1 ... y5 0.45 or more even
# where all faces are at the worst place of their photos. There, single photos of LFW have 0.576 or more: a face may have less
# than that, since heads turn further than LFW's.
MAX_MEDIAN = 0.40
MAX_MISFIT = 0.57
FIRST_ROWS = 100
UPRIGHT = 45  # degrees that the median face may be turned

_LEFT_EYE, _RIGHT_EYE, _NOSE, _LEFT_MOUTH, _RIGHT_MOUTH = range(5)
_NAMES = "left eye", "right eye", "nose", "left corner of the mouth", "right corner of the mouth"
_COLUMNS = np.arange(10)  # of the numbers of a row
_LAYOUTS = {
    "x1 y1 ... x5 y5": _COLUMNS.reshape(5, 2),
    "x1 ... x5 y1 ... y5": _COLUMNS.reshape(2, 5).T,
    "y1 x1 ... y5 x5": _COLUMNS.reshape(5, 2)[:, ::-1],
    "y1 ... y5 x1 ... x5": _COLUMNS.reshape(2, 5).T[:, ::-1],
}


class Fit(NamedTuple):
    """How faces lie on TEMPLATE after the similarity that brings their landmarks nearest to it; each an array [...].

    misfit: the distance that is left, as a share of the template's size: 0 on the template, 1 where nothing fits; nan where
        the landmarks coincide.
    turn: the rotation, in degrees from -180 to 180.
    mirrored: whether a reflection would bring them nearer, as when left and right are exchanged.
    """

    misfit: np.ndarray
    turn: np.ndarray
    mirrored: np.ndarray


class Order(NamedTuple):
    """An order of a row's ten numbers: what it is called, and where x and y of TEMPLATE's points are in it, int [5, 2]."""

    name: str
    columns: np.ndarray


def fit(landmarks: np.ndarray) -> Fit:
    """Fit faces to TEMPLATE, given their landmarks in pixels, float [..., 5, 2].

    With points as complex numbers around their means, r = |sum(conj(z) w)| / (|z| |w|) is their correlation with the template
    after the best rotation and scale, and sqrt(1 - r^2) the distance left; without the conjugate, after a reflection too.
    """
    z, w = landmarks @ (1, 1j), TEMPLATE @ (1, 1j)
    z, w = z - z.mean(-1, keepdims=True), w - w.mean()
    sizes = np.linalg.norm(z, axis=-1) * np.linalg.norm(w)
    direct, reflected = z.conj() @ w, z @ w
    with np.errstate(invalid="ignore", divide="ignore"):
        misfit = np.sqrt(np.maximum(1 - (np.abs(direct) / sizes) ** 2, 0))
    return Fit(misfit, np.degrees(np.angle(direct)), np.abs(reflected) > np.abs(direct))


def complaint(landmarks: np.ndarray) -> str | None:
    """Return what is wrong with the landmarks of one face, float [5, 2]; None where they can be those of a face, or coincide."""
    found = fit(landmarks)
    if found.mirrored:
        return "the landmarks are mirrored: left and right are exchanged, or x and y"
    if found.misfit > MAX_MISFIT:
        return f"the landmarks are not those of a face: {found.misfit:.2f} from the template, {MAX_MISFIT} at most"
    return None


def wrong_order(rows: np.ndarray) -> str | None:
    """Return what is wrong with the order of the numbers in most of the rows, float [n, 10], and the order that would fit.

    None where x1 y1 ... x5 y5 fits and most faces stand upright. Rows whose points coincide are ignored.
    """
    given, *others = _orders()
    misfit, turn = _medians(rows, given)
    if np.isnan(misfit) or (misfit <= MAX_MEDIAN and turn <= UPRIGHT):
        return None
    found = f"{misfit:.2f} from the template, {MAX_MEDIAN:.2f} at most" if misfit > MAX_MEDIAN else f"turned by {turn:.0f} degrees"
    text = f"read as {given.name}, the first {len(rows)} faces are {found} (median)"
    medians = [(*_medians(rows, order), order) for order in others]
    fitting = [(misfit, order) for misfit, turn, order in medians if misfit <= MAX_MEDIAN and turn <= UPRIGHT]
    if not fitting:
        return f"{text}, and no other order of the numbers fits" if misfit > MAX_MEDIAN else None
    _, best = min(fitting, key=lambda found: found[0])
    columns = " ".join(map(str, best.columns.ravel() + 1))
    return f"{text}; they fit as {best.name}: write numbers {columns} of each line in this order"


def _medians(rows: np.ndarray, order: Order) -> tuple[float, float]:
    """Return the median misfit and turn, without its sign, of rows that are in some order; nan where all points coincide."""
    found = fit(rows[:, order.columns])
    known = ~np.isnan(found.misfit)
    if not known.any():
        return np.nan, np.nan
    return float(np.median(found.misfit[known])), float(np.median(np.abs(found.turn[known])))


def _orders() -> Iterator[Order]:
    """Yield the orders in which tools write five landmarks, the one that is asked for first.

    Not all there are: the template is nearly symmetric, also upside down, so that some absurd orders fit as well.
    """
    for layout, columns in _LAYOUTS.items():
        for points in _point_orders():
            place = np.argsort(points)  # of TEMPLATE's points in the row
            names = "" if points == sorted(points) else f" of {', '.join(_NAMES[point] for point in points)} (as seen in the image)"
            yield Order(layout + names, columns[place])


def _point_orders() -> Iterator[list[int]]:
    """Yield lists of TEMPLATE's points: with left and right as in the image or exchanged, and the nose in each of three places."""
    for eyes in (_LEFT_EYE, _RIGHT_EYE), (_RIGHT_EYE, _LEFT_EYE):
        for mouth in (_LEFT_MOUTH, _RIGHT_MOUTH), (_RIGHT_MOUTH, _LEFT_MOUTH):
            yield [*eyes, _NOSE, *mouth]
            yield [*eyes, *mouth, _NOSE]
            yield [_NOSE, *eyes, *mouth]
