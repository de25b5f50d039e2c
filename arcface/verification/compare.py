"""Compares two images: how alike their faces are, and whether that is one identity."""

import numpy as np

from arcface.config import CompareConfig
from arcface.data.photos import CropReader
from arcface.inference.embed import unit_embeddings
from arcface.inference.embedder import default_batch_size, open_embedder
from arcface.verification.thresholds import threshold_of


def compare(config: CompareConfig) -> bool:
    """Print the similarity and the decision, and return whether both images show one identity.

    The similarity is verification's, of plain and mirrored embeddings added, so that its thresholds apply. Where an image has
    several faces ("all"), the two faces that are most alike decide.

    Raises UserError if an option is wrong, or an image cannot be read or shows no face.
    """
    threshold, source = threshold_of(config)
    reader = CropReader(config.detector, config.faces)
    crops = [np.stack(reader.read(path)) for path in (config.first, config.second)]
    with open_embedder(config.checkpoint, config.network, config.embedding_size, config.engine, config.device) as embed:
        batch_size = config.batch_size or default_batch_size()
        first, second = (unit_embeddings(embed, faces, batch_size, flip=True) for faces in crops)
    similarity = float((first @ second.T).max())
    same = similarity >= threshold
    print(f"similarity {similarity:.4f}")
    print(f"{'same' if same else 'different'}: {'at or above' if same else 'below'} the threshold {threshold:.4f} ({source})")
    return same
