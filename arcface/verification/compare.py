"""Compares two images: how alike their faces are, and whether that is one identity."""

from arcface.config import CompareConfig
from arcface.inference.embedder import Embedder
from arcface.verification.thresholds import threshold_of


def compare(config: CompareConfig) -> bool:
    """Print the similarity and the decision, and return whether both images show one identity.

    The similarity is verification's, of plain and mirrored embeddings added, so that its thresholds apply. Where an image has
    several faces ("all"), the two faces that are most alike decide.

    Raises UserError if an option is wrong, or an image cannot be read or shows no face.
    """
    threshold, source = threshold_of(config)
    with Embedder(
        config.checkpoint,
        config.network,
        config.embedding_size,
        config.engine,
        config.device,
        config.detector,
        config.faces,
        config.batch_size,
        flip=True,
    ) as embedder:
        first, second = embedder.each([config.first, config.second])
    similarity = float((first @ second.T).max())
    same = similarity >= threshold
    print(f"similarity {similarity:.4f}")
    print(f"{'same' if same else 'different'}: {'at or above' if same else 'below'} the threshold {threshold:.4f} ({source})")
    return same
