"""Doctor's examination of the training images and the verification sets."""

import os
from pathlib import Path

import numpy as np

from arcface.config import TrainConfig
from arcface.data.bin_file import VerificationSet, read_bin
from arcface.data.datasets.base import Dataset, open_dataset
from arcface.data.datasets.labels import evenly_spread
from arcface.data.duplicates import UNKNOWN, find_copies
from arcface.data.image_statistics import advise_black, describe_colours, describe_identities, describe_sizes, examine_images
from arcface.io.report import Report
from arcface.verification.ijb import read_protocol

SAMPLE = 2000  # training images to decode


def examine_training_data(report: Report, config: TrainConfig) -> tuple[int | None, set[int]]:
    """Report the list of training images and a sample of them.

    Returns the number of classes, of the options if there is no list, and the hashes of the sample's images.
    """
    with report.examining("training set"):
        dataset = open_dataset(config.data_dir, config.label_file, config.num_classes, bool(config.outside_paths))
        report.line(
            "training set",
            f"{dataset.file}: {len(dataset):,} images of {dataset.num_classes:,} identities",
            f"--batch_size {config.batch_size} is more than that, and the rest of each batch is padding: use a smaller one"
            if config.batch_size > len(dataset)
            else None,
        )
        report.line("per identity", describe_identities(dataset.labels))
        repeated, contradictory = _examine_repeated(report, dataset)
        if not contradictory:  # else the scan would stop at what has just been reported
            with report.examining("files"):
                dataset.scan(0)
                report.line("files", "all exist")
        return dataset.num_classes, _examine_sample(report, dataset, repeated)
    return config.num_classes, set()


def examine_verification_sets(report: Report, files: list[Path], training_hashes: set[int]) -> None:
    """Report each verification set: its pairs, its images, and how many of them are in the sample of the training images."""
    if not files:
        report.line("verification", "no sets (--val_targets '')")
    for file in files:
        with report.examining(file.stem):
            if not os.path.exists(file) and os.path.isdir(file.with_suffix("")):
                protocol = read_protocol(file.with_suffix(""))
                report.line(
                    file.stem,
                    f"{protocol.positives + protocol.negatives:,} pairs ({protocol.positives:,} of one identity)"
                    f" of templates of {len(protocol.images):,} images; for valid.py only",
                )
                continue
            _examine_pairs(report, read_bin(file), training_hashes)


def _examine_pairs(report: Report, pairs: VerificationSet, training_hashes: set[int]) -> None:
    positions: dict[bytes, int] = {}
    for position, image in enumerate(pairs.images):
        positions.setdefault(image, position)
    seen = examine_images(list(positions.values()), pairs.images.__getitem__, "image {}".format)
    sizes, wrong = describe_sizes(seen)
    colours, swapped = describe_colours(seen)
    shared = sum(content in training_hashes for content in seen.hashes)
    leak = f"{shared:,} of its images are in the sample of the training images: remove those identities from the training list"
    report.line(
        pairs.name,
        f"{len(pairs.is_same):,} pairs, {pairs.is_same.sum():,} of one identity; {len(positions):,} images: {sizes}; {colours}"
        f"{'; none is in the sample' if training_hashes and not shared else ''}",
        wrong,
        swapped,
        advise_black(seen),
        leak if shared else None,
    )


def _examine_repeated(report: Report, dataset: Dataset) -> tuple[set[int], bool]:
    """Report entries that list an image again; return their indices, and whether any has another label."""
    again, first = dataset.repeated()
    others = np.count_nonzero(dataset.labels[again] != dataset.labels[first])
    report.line(
        "listed twice",
        f"{len(again):,} entries, {others:,} of them as another identity" if len(again) else "no image",
        f"remove the repeated entries; the first is {dataset.name(again[0])}" if len(again) else None,
    )
    return set(again.tolist()), bool(others)


def _examine_sample(report: Report, dataset: Dataset, repeated: set[int]) -> set[int]:
    """Report a sample of the training images; return the hashes of their bytes."""
    indices = evenly_spread(len(dataset), SAMPLE)
    seen = examine_images(indices.tolist(), dataset.encoded, dataset.name)
    some = " spread over the list" if len(indices) < len(dataset) else ""
    sizes, wrong = describe_sizes(seen)
    report.line("sample", f"{len(indices):,} images{some}: {sizes}", wrong, advise_black(seen))
    colours, swapped = describe_colours(seen)
    report.line("its colours", colours, swapped)
    hashes = np.array(seen.hashes, np.uint64)
    copies, originals = find_copies(np.where(np.isin(indices, list(repeated)), UNKNOWN, hashes))
    others = np.count_nonzero(dataset.labels[indices[copies]] != dataset.labels[indices[originals]])
    report.line(
        "its copies",
        f"{len(copies):,} with the content of another image, {others:,} of them as another identity"
        if len(copies)
        else "no two images have the same content",
        f"remove them; the first: {dataset.name(indices[copies[0]])} equals {dataset.name(indices[originals[0]])}"
        if len(copies)
        else None,
    )
    return set(seen.hashes) - {UNKNOWN}
