"""The batches on which the head is held against the reference, the same in every process."""

import numpy as np

ROWS, SIZE = 12, 8  # 12 rows: divisible among 1, 2, 3 and 4 ranks
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-3
MARGINS = {"ArcFace": (1.0, 0.5, 0.0), "CosFace": (1.0, 0.0, 0.4), "SphereFace": (4.0, 0.0, 0.0)}
CLASSES_PER_BLOCK = 3  # a block and more for each of 4 ranks
SCALE, LARGE_SCALE = 16.0, 100.0  # exp(100) is beyond float32
LOSSES = [*((name, SCALE) for name in MARGINS), ("ArcFace", LARGE_SCALE)]
EQUAL, UNEQUAL = 12, 13  # numbers of classes that 4 ranks share equally, and unequally


def batch(classes: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings, labels and the centres before the first step, float32; the last rows are the difficult ones.

    Only the first step has cosines of exactly 1 and -1: after an update they would be nearly so, where float32 leaves
    few digits to the angle in any implementation.
    """
    centres = np.random.default_rng(classes).standard_normal((classes, SIZE)).astype(np.float32)
    draw = np.random.default_rng([classes, step])
    embeddings = draw.standard_normal((ROWS, SIZE)).astype(np.float32)
    labels = draw.integers(0, classes, ROWS)
    labels[0], labels[1] = 0, classes - 1
    for row, angle in ((6, np.pi - 0.501), (7, np.pi - 0.499), (8, np.pi - 0.2)):
        target = centres[labels[row]] / np.linalg.norm(centres[labels[row]])
        across = embeddings[row] - embeddings[row] @ target * target
        embeddings[row] = 3 * (np.cos(angle) * target + np.sin(angle) * across / np.linalg.norm(across))
    if step == 0:
        embeddings[9] = 2 * centres[labels[9]]
        embeddings[10] = -2 * centres[labels[10]]
    labels[11] = -1
    return embeddings, labels, centres
