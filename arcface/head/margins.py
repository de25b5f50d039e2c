"""The margin on the target's cosine: one pure function whose settings are the published losses.

ArcFace     m1 = 1, m2 = 0.5, m3 = 0    Deng et al. 2019, arXiv:1801.07698
CosFace     m1 = 1, m2 = 0,   m3 = 0.4  Wang et al. 2018, arXiv:1801.09414
SphereFace  m1 = 4, m2 = 0,   m3 = 0    Liu et al. 2017, arXiv:1704.08063
"""

from typing import NamedTuple

import numpy as np
import paddle

# The derivative of the angle is infinite at cosines of -1 and 1, which rounding reaches and exceeds. Cosines are clamped to
# this limit, wide enough that float32 and float64 agree on which cosines lie beyond it.
COSINE_LIMIT = 1 - 1e-6


class Margin(NamedTuple):
    """cos(m1 * angle + m2) - m3."""

    m1: float = 1.0
    m2: float = 0.5
    m3: float = 0.0


def apply_margin(cosine: paddle.Tensor, margin: Margin) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the targets' cosines with the margin, and its derivative by the cosine (both of the same shape).

    Beyond phi = m1 * angle + m2 = pi the cosine would rise again and reward a worse angle. There the function keeps
    falling as its authors define it: for m1 = 1 the penalty stays m2 * sin(m2), as in InsightFace's ArcFace until November 2022;
    for other m1 it is SphereFace's (-1)^k cos(phi) - 2k with k = floor(phi / pi). The derivative is 0 where the cosine is
    clamped.
    """
    clamped = cosine.clip(-COSINE_LIMIT, COSINE_LIMIT)
    angle = paddle.acos(clamped)
    if margin.m1 == 1:
        phi = angle + margin.m2
        beyond, sine = phi > np.pi, paddle.sin(angle)
        value = paddle.where(beyond, clamped - margin.m2 * np.sin(margin.m2), paddle.cos(phi))
        derivative = paddle.where(beyond, sine, paddle.sin(phi)) / sine
    else:
        phi = margin.m1 * angle + margin.m2
        k = paddle.floor(phi / np.pi)
        sign = 1 - 2 * (k % 2)
        value = sign * paddle.cos(phi) - 2 * k
        derivative = sign * margin.m1 * paddle.sin(phi) / paddle.sin(angle)
    return value - margin.m3, paddle.where(clamped == cosine, derivative, paddle.zeros_like(derivative))
