"""Embeddings of faces: the type of what computes them, unit embeddings of many faces, and how alike two are."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from arcface.errors import UserError
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


def unit_embeddings(embed: Embed, crops: np.ndarray, batch_size: int, flip: bool = False) -> np.ndarray:
    """Return the embeddings of faces, divided by their lengths; one of zeros stays as it is.

    Args:
        embed: what computes them.
        crops: uint8 [n, 3, 112, 112], RGB, n > 0.
        batch_size: crops embedded at once.
        flip: add the embedding of the mirror image before dividing, as verification does.

    Returns:
        float32 [n, D].

    Raises:
        UserError: an embedding is not finite.
    """

    def of_batch(batch: np.ndarray) -> np.ndarray:
        return embed(batch) + embed(np.ascontiguousarray(batch[..., ::-1])) if flip else embed(batch)

    raw = np.concatenate([of_batch(crops[start : start + batch_size]) for start in range(0, len(crops), batch_size)])
    if not np.isfinite(raw).all():
        raise UserError("embeddings are not finite (damaged weights, or training that diverged); choose another --checkpoint")
    lengths = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    return (raw / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def check_input(images: np.ndarray) -> None:
    """Raise ValueError for anything other than images for an `Embed`, such as an array that is normalised already."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3, SIZE, SIZE) or not len(images):
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"images are uint8 [n, 3, {SIZE}, {SIZE}], RGB, n > 0, not {found}; read_image reads one")
