"""Merges datasets: identities one dataset after the other, joined by name or a list, without those of verification sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arcface.data.bin_file import read_bin
from arcface.data.datasets.base import Dataset, open_dataset
from arcface.data.duplicates import image_hash
from arcface.data.names import names_of
from arcface.data.ordered_map import ordered_map
from arcface.data.selection import Selection
from arcface.data.writers import WriteOptions, check_output, write
from arcface.errors import UserError
from arcface.options.kinds import PathName

MOST_DATASETS = 255  # their numbers are kept as uint8

Mapping = dict[tuple[int, int], int]  # (number of the dataset from 1, label): new label


@dataclass(kw_only=True)
class MergeOptions(WriteOptions):
    """Datasets to merge"""

    sources: list[PathName]
    """The datasets, each as train.py takes --data_dir."""
    output: PathName
    """The file NAME.rec or the directory to write."""
    same_names: bool = False
    """Join identities with equal names."""
    mapping: PathName | None = None
    """List of identities that are in several sources, see above."""
    without: list[PathName] = field(default_factory=list)
    """Verification sets (.bin) whose identities are left out."""


def merge(options: MergeOptions) -> str:
    """Write the merged dataset, and return the line that says what it is; raises UserError if that is not possible."""
    if not 2 <= len(options.sources) <= MOST_DATASETS:
        raise UserError(f"--sources: {len(options.sources)} given; pass 2 to {MOST_DATASETS} datasets")
    output = Path(options.output)
    layout = options.layout_of(output)
    check_output(output, layout)
    datasets = [open_dataset(path) for path in options.sources]
    check_output(output, layout, datasets)
    mapping = read_mapping(Path(options.mapping), datasets) if options.mapping else {}
    new_labels, identity_names = join(datasets, options.same_names, mapping)
    selection = concatenated(datasets, new_labels, identity_names)
    left_out = identities_in(selection, options.without, options.threads) if options.without else np.zeros(0, np.int64)
    order = np.argsort(selection.labels, kind="stable")
    selection = selection.pick(order[~np.isin(selection.labels[order], left_out)])
    joined = sum(map(len, new_labels)) - len(identity_names)
    return f"{write(selection, output, layout, options.threads)}; {joined} joined, {len(left_out)} left out"


def read_mapping(file: Path, datasets: Sequence[Dataset]) -> Mapping:
    """Read a list of lines 'source<TAB>label<TAB>new label'; raises UserError for a line that is wrong."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"--mapping {file}: cannot be read ({error.strerror}); pass a text file") from error
    mapping: Mapping = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where, words = f"{file} line {number}", line.split()
        if len(words) != 3 or not all(word.isascii() and word.isdecimal() for word in words):
            raise UserError(f"{where}: not three whole numbers, source, label and new label; correct the line")
        source, label, new_label = map(int, words)
        if not (2 <= source <= len(datasets) and label < datasets[source - 1].num_classes):
            raise UserError(f"{where}: no identity {label} in a source {source} after the first; correct the line")
        if (source, label) in mapping:
            raise UserError(f"{where}: identity {label} of source {source} has a new label already; remove one line")
        mapping[source, label] = new_label
    return mapping


def join(datasets: Sequence[Dataset], same_names: bool, mapping: Mapping) -> tuple[list[np.ndarray], list[str]]:
    """Return the new labels of each dataset's identities, int64 [num_classes] each, and all names by new label.

    Raises UserError if names are missing or a new label of the mapping is not one of an earlier dataset.
    """
    tables: list[np.ndarray] = []
    identity_names: list[str] = []
    label_of: dict[str, int] = {}
    for number, dataset in enumerate(datasets, 1):
        names, earlier = names_of(dataset), len(identity_names)
        if same_names and not any(names.values()):
            raise UserError(
                f"{dataset.file}: --same_names needs names of its identities; write a names.txt of lines 'label<TAB>name'"
            )
        table = np.empty(dataset.num_classes, np.int64)
        for label in range(dataset.num_classes):
            name = names.get(label, "")
            new_label = mapping.get((number, label))
            if new_label is not None and new_label >= earlier:
                raise UserError(
                    f"--mapping: identity {label} of source {number} has new label {new_label}, but earlier sources have"
                    f" {earlier} identities; correct the line"
                )
            if new_label is None and same_names and name:
                new_label = label_of.get(name)
            if new_label is None:
                new_label = label_of[name] = len(identity_names)
                identity_names.append(name)
            table[label] = new_label
        tables.append(table)
    return tables, identity_names


def concatenated(datasets: list[Dataset], new_labels: Sequence[np.ndarray], identity_names: list[str]) -> Selection:
    """Return all images of the datasets, one dataset after the other, with the new labels of their identities."""
    sizes = list(map(len, datasets))
    return Selection(
        datasets,
        np.repeat(np.arange(len(datasets), dtype=np.uint8), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
        np.concatenate([table[dataset.labels] for table, dataset in zip(new_labels, datasets, strict=True)]),
        identity_names,
    )


def identities_in(selection: Selection, files: Sequence[str], threads: int) -> np.ndarray:
    """Return the labels, int64 ascending, of identities with an image that is, byte for byte, in a verification set."""
    sets = map(read_bin, files)
    wanted = np.array([image_hash(pairs.encoded(at)) for pairs in sets for at in pairs.distinct().values()], np.uint64)

    def hashes_of(chunk: range) -> list[int]:
        return [image_hash(selection.encoded(position)) for position in chunk]

    chunks = ordered_map(hashes_of, range(len(selection)), threads, "comparing")
    hashes = np.fromiter((value for chunk in chunks for value in chunk), np.uint64, len(selection))
    return np.unique(selection.labels[np.isin(hashes, wanted)])
