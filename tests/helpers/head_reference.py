"""The head's loss in float64, written from the papers' formulas, and its gradient by central differences."""

import numpy as np

LIMIT = 1 - 1e-6  # where the head clamps cosines


def margin(cosine, m1, m2, m3):
    """The margin function of one cosine: cos(m1 * angle + m2) - m3, going on falling beyond pi as published."""
    cosine = min(max(cosine, -LIMIT), LIMIT)
    phi = m1 * np.arccos(cosine) + m2
    if m1 == 1:
        return (np.cos(phi) if phi <= np.pi else cosine - m2 * np.sin(m2)) - m3
    turns = 0
    while phi > np.pi:
        phi -= np.pi
        turns += 1
    return np.cos(phi) - 2 * turns - m3  # (-1)^k cos(phi) with phi reduced by k * pi is cos(reduced phi)


def loss(embeddings, labels, centres, margins, scale):
    """Mean over the rows with a label >= 0 of the margin softmax's cross-entropy."""
    unit_embeddings = embeddings / np.sqrt((embeddings**2).sum(axis=1, keepdims=True))
    unit_centres = centres / np.sqrt((centres**2).sum(axis=1, keepdims=True))
    losses = []
    for cosines, label in zip(unit_embeddings @ unit_centres.T, labels):
        if label >= 0:
            cosines[label] = margin(cosines[label], *margins)
            logits = scale * cosines
            losses.append(logits.max() + np.log(np.exp(logits - logits.max()).sum()) - logits[label])
    return np.mean(losses)


def gradient(function, array, step=1e-6):
    """Central differences of a scalar function at `array`, entry by entry."""
    result = np.empty_like(array)
    for position in np.ndindex(array.shape):
        values = []
        for sign in (1, -1):
            moved = array.copy()
            moved[position] += sign * step
            values.append(function(moved))
        result[position] = (values[0] - values[1]) / (2 * step)
    return result
