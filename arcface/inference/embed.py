"""Embeddings of faces: the type of what computes them, and how alike two are."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from arcface.io.images import SIZE

# uint8 images [n, 3, 112, 112], RGB -> float32 embeddings [n, D], not normalised
Embed = Callable[[np.ndarray], np.ndarray]


def cosine(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Cosine similarity of embeddings, from -1 for opposite directions to 1 for the same one.

    Args:
        a, b: float [..., D], with leading dimensions that broadcast: [D] and [D], [n, D] and [n, D], or [D] and [n, D].

    Returns:
        float64 [...]; 0 where an embedding is all zeros.

    Raises:
        ValueError: shapes that do not fit together.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"embeddings of shapes {list(a.shape)} and {list(b.shape)}, not both [..., D]")
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / np.where(lengths == 0, 1, lengths)


def check_input(images: np.ndarray) -> None:
    """Raise ValueError for anything other than images for an `Embed`, such as an array that is normalised already."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3, SIZE, SIZE) or not len(images):
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"images are uint8 [n, 3, {SIZE}, {SIZE}], RGB, n > 0, not {found}; read_image reads one")
