"""Template-based verification, 1:1, and identification, 1:N: the protocols of IJB-B and IJB-C, as InsightFace evaluates them.

A template is a set of images of one identity, from one or more media: a still, or a video of which it has several frames.
Images become features, features become one feature a template, and listed pairs of templates are compared. (Whitelam et
al., "IARPA Janus Benchmark-B Face Dataset", CVPR Workshops 2017; Maze et al., "IARPA Janus Benchmark - C: Face Dataset and
Protocol", ICB 2018.)
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from arcface.config import TemplateOptions
from arcface.distributed.process_group import rank
from arcface.errors import UserError
from arcface.inference.embed import Embed
from arcface.verification.evaluator import embed_plain_and_flipped
from arcface.verification.gallery_lists import SearchLists
from arcface.verification.identification import Identification, rank_rates, search, tpir_at_fpir
from arcface.verification.ijb import BLOCK_BYTES, IjbProtocol, check_kinds, load_image, read_pairs
from arcface.verification.roc import Roc, roc_from_counts

# Similarities are counted in bins of 2**-20, a millionth: a power of two, so that edges and bins are exact in float64.
BINS_PER_UNIT = 2**20

# Images that `aggregate` weighs at a time, so that it does not copy all features.
AGGREGATE_IMAGES = 2**13

RANKS = (1, 5)  # of the identification


class TemplateResult(NamedTuple):
    """The ROC of the pairs of templates, and the identification's figures where the protocol has one."""

    curve: Roc
    identification: Identification | None


def verify_templates(
    embed: Embed, protocol: IjbProtocol, batch_size: int | None, options: TemplateOptions
) -> TemplateResult | None:
    """Embed all images of a protocol, score its pairs of templates and search its probes; called by every rank.

    Args:
        embed: the backbone's embeddings.
        protocol: from `read_protocol`.
        batch_size: images embedded at a time, each plain and flipped; None for what suits the device.
        options: see `image_features`.

    Returns:
        The result on rank 0, None on the others.
    """
    plain, flipped = embed_plain_and_flipped(
        embed, lambda index: load_image(protocol, index), len(protocol.images), batch_size, protocol.name
    )
    if rank():
        return None
    features = image_features(
        plain,
        flipped,
        protocol.detector_scores,
        flip=bool(options.template_flip),
        norm_score=bool(options.template_norm_score),
        detector_score=bool(options.template_detector_score),
    )
    template_ids, template_features = aggregate(features, protocol.templates, protocol.media)
    curve = score(protocol.pairs_file, template_ids, template_features)
    return TemplateResult(curve, protocol.searches and identify(protocol.searches, template_ids, template_features))


def identify(lists: SearchLists, template_ids: np.ndarray, template_features: np.ndarray) -> Identification:
    """Search all probes in each gallery; a probe whose subject is in another gallery has no mate in this one.

    The rates by rank are over the searches of all galleries, and TPIR is the mean over the galleries, as in InsightFace's
    evaluation (recognition/_evaluation_/ijb/ijb_evals.py).

    Args:
        lists: the templates of probes and galleries, all of them in template_ids.
        template_ids, template_features: int64 [t], ascending, and float [t, D], finite, as `aggregate` returns.
    """

    def features(templates: np.ndarray) -> np.ndarray:
        return template_features[np.searchsorted(template_ids, templates)]

    probes = features(lists.probes.templates)
    searches = [
        search(probes, lists.probes.identities, features(gallery.templates), gallery.identities) for gallery in lists.galleries
    ]
    return Identification(rank_rates(searches, RANKS), list(zip(*map(tpir_at_fpir, searches), strict=True)))


def image_features(
    plain: np.ndarray,
    flipped: np.ndarray | None,
    detector_scores: np.ndarray | None = None,
    *,
    flip: bool,
    norm_score: bool,
    detector_score: bool,
) -> np.ndarray:
    """Turn embeddings into what `aggregate` adds up; the options are those of InsightFace's IJB evaluation.

    There all three are on by default ("N1D1F1"), and defined as here (recognition/arcface_torch/eval_ijbc.py: use_flip_test,
    use_norm_score, use_detector_score). The norm of an embedding and the detector's score are weights: both are small for
    images on which there is little to recognise.

    Args:
        plain, flipped: float [n, D], the embeddings of images and of their mirror images, not normalised; flipped may be None
            without `flip`.
        detector_scores: float [n]; may be None without `detector_score`.
        flip: add the embedding of the mirror image.
        norm_score: keep the norm as a weight; otherwise each feature is L2-normalised (one of zeros stays as it is).
        detector_score: multiply by the detector's score.

    Returns:
        float32 [n, D], a new array.

    Raises:
        ValueError: flip without mirror images, or detector_score without scores.
    """
    if detector_score and detector_scores is None:
        raise ValueError("detector_score without detector_scores")
    if not flip:
        features = np.array(plain, np.float32)
    elif flipped is None:
        raise ValueError("flip without flipped")
    else:
        features = np.add(plain, flipped, dtype=np.float32)
    if not norm_score:
        features /= _norms(features)
    if detector_score:
        features *= np.asarray(detector_scores, np.float32)[:, None]
    return features


def aggregate(features: np.ndarray, templates: np.ndarray, media: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Combine the features of images into one feature a template, as InsightFace's image2template_feature does.

    Within a template: the mean over the images of each media (the image itself, where it has one), the sum over its media,
    L2-normalised. So a video counts as much as a still. A sum of zeros stays as it is. Computed in float64.

    Args:
        features: float [n, D], n > 0, such as `image_features` returns.
        templates, media: int [n], in any order. Equal media of different templates have nothing to do with each other.

    Returns:
        int64 [t], the templates in ascending order, and float32 [t, D], their features.
    """
    if features.ndim != 2 or not len(features) or templates.shape != media.shape or templates.shape != features.shape[:1]:
        raise ValueError(f"features {features.shape}, templates {templates.shape}, media {media.shape}: not those of n images")
    template_ids, row = np.unique(templates, return_inverse=True)
    media_ids, media = np.unique(media, return_inverse=True)
    _, group, counts = np.unique(row * len(media_ids) + media, return_inverse=True, return_counts=True)
    weights = 1 / counts[group]  # the sum of means is one weighted sum
    sums = np.zeros((len(template_ids), features.shape[1]))
    order = np.argsort(row, kind="stable")
    for start in range(0, len(order), AGGREGATE_IMAGES):
        part = order[start : start + AGGREGATE_IMAGES]
        first = np.flatnonzero(np.diff(row[part], prepend=-1))  # of each template; its images may continue in the next part
        sums[row[part[first]]] += np.add.reduceat(features[part] * weights[part, None], first)
    return template_ids.astype(np.int64), (sums / _norms(sums)).astype(np.float32)


def score(pairs_file: str | Path, template_ids: np.ndarray, template_features: np.ndarray, block_bytes: int = BLOCK_BYTES) -> Roc:
    """Compare all listed pairs of templates by cosine similarity, and return the ROC.

    Similarities are counted in bins of width 2**-20 (a millionth) from -1 to 1, so that memory does not depend on the number
    of pairs. Each threshold is the lower edge of a bin that some pair fell into: exactly the pairs in it and in those above
    have similarity >= threshold. Pairs whose similarities differ by less than the width may share a threshold.

    Args:
        pairs_file: as in `IjbProtocol`.
        template_ids, template_features: int64 [t], ascending, and float [t, D], as `aggregate` returns: L2-normalised.
        block_bytes: how much of the file is read at a time; the result does not depend on it.

    Raises:
        UserError: a wrong line in the file or a template without feature (with the line), no pairs, only one kind of pair, or
            a feature that is not finite.
        ValueError: features that are not L2-normalised, or shapes that do not agree.
    """
    features = np.ascontiguousarray(template_features, np.float32)
    if features.ndim != 2 or not len(features) or features.shape[:1] != np.shape(template_ids):
        raise ValueError(f"template ids {np.shape(template_ids)} and features {features.shape} are not those of t > 0 templates")
    norms = _norms(features)[:, 0]
    if not np.isfinite(norms).all():
        wrong = template_ids[np.flatnonzero(~np.isfinite(norms))[0]]
        raise UserError(f"the feature of template {wrong} is not finite: the network has diverged; choose another checkpoint")
    if np.abs(norms - 1).max() > 1e-3:
        raise ValueError("template features must be L2-normalised")
    counts = np.zeros((2, 2 * BINS_PER_UNIT + 1), np.int64)  # of negatives and positives; the last bin is similarity 1
    for rows, is_same in read_pairs(pairs_file, template_ids, f"scoring {Path(pairs_file).name}", block_bytes):
        similarities = np.einsum("ij,ij->i", features[rows[:, 0]], features[rows[:, 1]])
        bins = np.floor(np.clip(similarities, -1, 1).astype(np.float64) * BINS_PER_UNIT).astype(np.int64) + BINS_PER_UNIT
        np.add.at(counts[0], bins[~is_same], 1)
        np.add.at(counts[1], bins[is_same], 1)
    check_kinds(pairs_file, *counts.sum(axis=1))
    edges = np.arange(-BINS_PER_UNIT, BINS_PER_UNIT + 1) / BINS_PER_UNIT
    return roc_from_counts(edges, positives_per_threshold=counts[1], negatives_per_threshold=counts[0])


def _norms(features: np.ndarray) -> np.ndarray:
    """L2 norms [n, 1], 1 for rows of zeros; without a copy of the features."""
    norms = np.sqrt(np.einsum("ij,ij->i", features, features))[:, None]
    return np.where(norms == 0, 1, norms).astype(norms.dtype)
