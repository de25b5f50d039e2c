"""Evaluation of an embedding on a verification set: the figures that the field quotes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import paddle
from tqdm import tqdm

from arcface.data.verification_set import VerificationSet
from arcface.distributed.process_group import all_gather, heartbeat, rank, world_size
from arcface.errors import UserError
from arcface.extras import how_to_install_base
from arcface.inference.embed import Embed
from arcface.io.images import SIZE
from arcface.verification.metrics import KFoldAccuracy, kfold_accuracy, mean_norm, squared_distances
from arcface.verification.roc import Roc, roc

FACES_AT_ONCE = 16
# Enough for a GPU to be busy, and safe on a small one: without gradients an image takes what two layers hold, 4.2 MB in
# MobileFaceNet_128, so these and their mirror images take 1.1 GB.
FACES_AT_ONCE_ON_GPU = 128


class Verification(NamedTuple):
    """The result on one set.

    Attributes:
        xnorm: mean norm of the raw embeddings, plain and flipped.
        accuracy: accuracy in the set's folds, on the squared distances.
        similarities: float64 [n], cosine similarities of the pairs, plain and flipped embeddings summed.
        curve: ROC of the similarities.
    """

    xnorm: float
    accuracy: KFoldAccuracy
    similarities: np.ndarray
    curve: Roc


def check_images(pairs: VerificationSet) -> None:
    """Decode every image of a set once, so that a damaged one is found before the work.

    Raises UserError that names the image, or where scikit-learn, which the figures need, is not installed.
    """
    if not find_spec("sklearn"):
        raise UserError(f"verification needs scikit-learn, which is not installed; {how_to_install_base()}")
    for position in tqdm(pairs.distinct().values(), f"checking {pairs.name}", unit=" images", disable=None, leave=False):
        pairs.crop(position)


def verify(embed: Embed, pairs: VerificationSet, batch_size: int | None = None) -> Verification:
    """Verify all pairs as InsightFace does: plain and flipped embeddings summed, normalised, squared distances.

    An image that occurs in several pairs is embedded once. Images are decoded batch by batch and divided between the
    ranks; every rank returns the result. `batch_size`: see `embed_plain_and_flipped`.
    """
    distinct = pairs.distinct()
    positions = list(distinct.values())
    row_of = {image: row for row, image in enumerate(distinct)}
    rows = np.array([row_of[image] for image in pairs.images])
    plain, flipped = embed_plain_and_flipped(embed, lambda row: pairs.crop(positions[row]), len(positions), batch_size, pairs.name)
    if not (np.isfinite(plain).all() and np.isfinite(flipped).all()):
        raise UserError(
            f"{pairs.name}: the backbone's embeddings are not finite (damaged weights, or training that diverged);"
            " choose another checkpoint"
        )
    # The norm's mean is over the pairs' images, so that its figure is that of evaluators that embed each occurrence.
    xnorm = (mean_norm(plain[rows]) + mean_norm(flipped[rows])) / 2
    distances = squared_distances((plain + flipped)[rows])
    similarities = 1 - distances / 2
    return Verification(
        xnorm, kfold_accuracy(distances, pairs.is_same, pairs.folds), similarities, roc(similarities, pairs.is_same)
    )


def embed_plain_and_flipped(
    embed: Embed, read: Callable[[int], np.ndarray], count: int, batch_size: int | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of `count` images and of their mirror images, each float32 [count, D].

    `read` gives an image by index, uint8 [3, 112, 112]. Each rank embeds every world_size-th image, and reads a batch
    while it embeds the one before: `batch_size` images and their mirror images, None for what suits the device. `name` is
    for the progress bar.
    """
    batch_size = batch_size or (FACES_AT_ONCE if paddle.get_device() == "cpu" else FACES_AT_ONCE_ON_GPU)
    per_rank = -(-count // world_size())
    # The last ranks may run out of images: they repeat the last one, since all_gather needs equal shapes.
    mine = np.minimum(np.arange(per_rank) * world_size() + rank(), count - 1)

    def plain_and_mirrored(start: int) -> np.ndarray:
        chosen = mine[start : start + batch_size]
        images = np.empty((2, len(chosen), 3, SIZE, SIZE), np.uint8)
        for row, index in enumerate(chosen):
            images[0, row] = read(index)
        images[1] = images[0, ..., ::-1]
        return images.reshape(-1, 3, SIZE, SIZE)

    parts = []
    hide_bar = True if rank() else None  # None: hide it unless on a terminal
    bar = tqdm(total=per_rank * world_size(), desc=f"verifying {name}", unit=" images", disable=hide_bar, leave=False)
    with ThreadPoolExecutor(1) as reader, bar:
        upcoming = reader.submit(plain_and_mirrored, 0)
        for start in range(0, per_rank, batch_size):
            images = upcoming.result()
            upcoming = reader.submit(plain_and_mirrored, start + batch_size)
            parts.append(embed(images).reshape(2, len(images) // 2, -1).swapaxes(0, 1))
            bar.update(len(images) // 2 * world_size())
            heartbeat(f"the verification on {name}")
    gathered = all_gather(paddle.to_tensor(np.concatenate(parts))).numpy()  # [ranks * per_rank, 2, D], rank by rank
    in_order = gathered.reshape(world_size(), per_rank, *gathered.shape[1:]).swapaxes(0, 1).reshape(gathered.shape)
    return in_order[:count, 0], in_order[:count, 1]
