"""Data: training images and verification sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arcface.config import ListedPairs, TrainConfig, VerificationOptions, name_of_set
from arcface.data.datasets.base import Dataset, open_dataset
from arcface.data.datasets.labels import evenly_spread
from arcface.data.duplicates import UNKNOWN, find_copies
from arcface.data.image_statistics import advise_black, describe_colours, describe_identities, describe_sizes, examine_images
from arcface.data.verification_set import VerificationSet
from arcface.io.report import Report
from arcface.verification.ijb import IjbProtocol
from arcface.verification.sets import read_set

SAMPLE = 2000  # training images examined


def examine_training_data(report: Report, config: TrainConfig) -> tuple[int | None, set[int]]:
    """Report the training list and a sample of its images.

    Returns the number of classes (that of the options if the list is unreadable) and the hashes of the sample's images.
    """
    with report.examining("training set"):
        dataset = open_dataset(config.data_dir, config.label_file, config.num_classes, bool(config.outside_paths))
        report.line(
            "training set",
            f"{dataset.file}: {len(dataset):,} images of {dataset.num_classes:,} identities",
            f"--batch_size {config.batch_size} is larger than the dataset, so each batch is padded: use a smaller one"
            if config.batch_size > len(dataset)
            else None,
        )
        report.line("per identity", describe_identities(dataset.labels))
        repeated, conflicting = _examine_rows(report, dataset)
        if not conflicting:  # else the scan would fail with what has just been reported
            with report.examining("files"):
                dataset.scan(0)
                report.line("files", "all exist")
        return dataset.num_classes, _examine_sample(report, dataset, repeated)
    return config.num_classes, set()


def examine_verification_sets(
    report: Report, targets: Sequence[Path | ListedPairs], training_hashes: set[int], options: VerificationOptions | None = None
) -> None:
    """Report each verification set: its pairs, its images, and how many of them are in the sample of training images."""
    if not targets:
        report.line("verification", "no sets (--val_targets '')")
    options = options or VerificationOptions()
    for target in targets:
        with report.examining(name_of_set(target)):
            match read_set(target, options):
                case VerificationSet() as pairs if pairs.kind and options.detector:
                    report.line(pairs.name, f"{pairs.kind}; photos, which training looks at when it aligns them")
                case VerificationSet() as pairs:
                    _examine_pairs(report, pairs, training_hashes)
                case IjbProtocol() as protocol:
                    report.line(
                        name_of_set(target),
                        f"{protocol.positives + protocol.negatives:,} pairs ({protocol.positives:,} of one identity)"
                        f" of templates of {len(protocol.images):,} images; for valid.py only",
                    )
                case protocol:
                    report.line(name_of_set(target), f"{protocol.kind}; for valid.py only")


def _examine_pairs(report: Report, pairs: VerificationSet, training_hashes: set[int]) -> None:
    positions = pairs.distinct()
    name = pairs.label if pairs.kind else "image {}".format
    statistics = examine_images(list(positions.values()), pairs.encoded, name)
    sizes, wrong = describe_sizes(statistics)
    colours, swapped = describe_colours(statistics)
    shared = sum(content in training_hashes for content in statistics.hashes)
    leak = f"{shared:,} of its images are also in the training sample: remove these identities from the training list"
    report.line(
        pairs.name,
        f"{len(pairs.is_same):,} pairs, {pairs.is_same.sum():,} of one identity; {len(positions):,} images: {sizes}; {colours}"
        f"{'; none is in the training sample' if training_hashes and not shared else ''}",
        wrong,
        swapped,
        advise_black(statistics),
        leak if shared else None,
    )


def _examine_rows(report: Report, dataset: Dataset) -> tuple[set[int], bool]:
    """Report rows that repeat an image; return their indices, and whether any of them has another label."""
    repeats, originals = dataset.repeated()
    other_identity = np.count_nonzero(dataset.labels[repeats] != dataset.labels[originals])
    report.line(
        "listed twice",
        f"{len(repeats):,} rows, {other_identity:,} of them under another identity" if len(repeats) else "no image",
        f"remove these rows; the first: {dataset.name(repeats[0])}" if len(repeats) else None,
    )
    return set(repeats.tolist()), bool(other_identity)


def _examine_sample(report: Report, dataset: Dataset, repeated: set[int]) -> set[int]:
    """Report a sample of the training images, and return the hashes of their files."""
    indices = evenly_spread(len(dataset), SAMPLE)
    statistics = examine_images(indices.tolist(), dataset.encoded, dataset.name)
    spread = " spread over the list" if len(indices) < len(dataset) else ""
    sizes, wrong = describe_sizes(statistics)
    report.line("sample", f"{len(indices):,} images{spread}: {sizes}", wrong, advise_black(statistics))
    colours, swapped = describe_colours(statistics)
    report.line("colours", colours, swapped)
    hashes = np.array(statistics.hashes, np.uint64)
    copies, originals = find_copies(np.where(np.isin(indices, list(repeated)), UNKNOWN, hashes))
    other_identity = np.count_nonzero(dataset.labels[indices[copies]] != dataset.labels[indices[originals]])
    report.line(
        "copies",
        f"{len(copies):,} identical to another image, {other_identity:,} of them under another identity"
        if len(copies)
        else "none in the sample",
        f"remove them; the first: {dataset.name(indices[copies[0]])} equals {dataset.name(indices[originals[0]])}"
        if len(copies)
        else None,
    )
    return set(statistics.hashes) - {UNKNOWN}
