"""From a backbone and a verification set to the figures that the field quotes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import paddle
from tqdm import tqdm

from arcface.images import SIZE, decode, normalise
from arcface.runtime.distributed import all_gather, rank, world_size
from arcface.verification.bin_file import VerificationSet
from arcface.verification.metrics import KFoldAccuracy, kfold_accuracy, mean_norm, squared_distances

# uint8 images [n, 3, 112, 112], RGB -> float32 embeddings [n, D], as NumPy arrays
Embed = Callable[[np.ndarray], np.ndarray]


class Verification(NamedTuple):
    """The result on one set: mean norm of the raw embeddings, and the 10-fold accuracy of plain plus flipped ones."""

    xnorm: float
    accuracy: KFoldAccuracy


def check_images(pairs: VerificationSet) -> None:
    """Decode every image of a set once; raises UserError for one that cannot be, rather than in mid-training."""
    for index, image in enumerate(dict.fromkeys(pairs.images)):
        decode(image, f"{pairs.name} image {index}")


def verify(embed: Embed, pairs: VerificationSet, batch_size: int) -> Verification:
    """Verify all pairs as InsightFace does: plain and flipped embeddings summed, normalised, squared distances.

    An image that occurs in several pairs is embedded once. Images are decoded batch by batch and divided between the
    ranks; every rank returns the result.
    """
    distinct = list(dict.fromkeys(pairs.images))
    row_of = {image: row for row, image in enumerate(distinct)}
    rows = np.array([row_of[image] for image in pairs.images])
    plain, flipped = embed_plain_and_flipped(embed, distinct, batch_size, pairs.name)
    # The norm's mean is over the pairs' images, so that its figure is that of evaluators that embed each occurrence.
    xnorm = (mean_norm(plain[rows]) + mean_norm(flipped[rows])) / 2
    return Verification(xnorm, kfold_accuracy(squared_distances((plain + flipped)[rows]), pairs.same))


def embed_plain_and_flipped(embed: Embed, encoded: list[bytes], batch_size: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of encoded images and of their mirror images, each float32 [number of images, D].

    Each rank embeds every world_size-th image; `name` is for the progress bar and for messages on bad images.
    """
    per_rank = -(-len(encoded) // world_size())
    # The last ranks may run out of images: they repeat the last one, since all_gather needs equal shapes.
    mine = np.minimum(np.arange(per_rank) * world_size() + rank(), len(encoded) - 1)
    parts = []
    hide_bar = True if rank() else None  # None: hide it unless on a terminal
    with tqdm(total=per_rank * world_size(), desc=f"verifying {name}", unit=" images", disable=hide_bar, leave=False) as bar:
        for start in range(0, per_rank, batch_size):
            chosen = mine[start : start + batch_size]
            images = np.empty((len(chosen), 3, SIZE, SIZE), np.uint8)
            for row, index in enumerate(chosen):
                images[row] = decode(encoded[index], f"{name} image {index}")
            parts.append(np.stack(np.split(embed(np.concatenate([images, images[..., ::-1]])), 2), 1))
            bar.update(len(chosen) * world_size())
    gathered = all_gather(paddle.to_tensor(np.concatenate(parts))).numpy()  # [ranks * per_rank, 2, D], rank by rank
    in_order = gathered.reshape(world_size(), per_rank, *gathered.shape[1:]).swapaxes(0, 1).reshape(gathered.shape)
    return in_order[: len(encoded), 0], in_order[: len(encoded), 1]


def embedder(backbone: paddle.nn.Layer) -> Embed:
    """Return a function that embeds uint8 images with the backbone in evaluation mode."""

    @paddle.no_grad()
    def embed(images: np.ndarray) -> np.ndarray:
        was_training = backbone.training
        backbone.eval()
        embeddings = backbone(normalise(paddle.to_tensor(images))).numpy()
        if was_training:
            backbone.train()
        return embeddings

    return embed
