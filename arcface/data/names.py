"""Names of identities: names.txt, of lines 'label<TAB>name', and the names of folders; old_labels.txt of relabelled ones."""

import os
from pathlib import Path

import numpy as np

from arcface.data.datasets.base import Dataset
from arcface.data.datasets.image_folder import ImageFolder
from arcface.errors import UserError
from arcface.io.files import atomic_write

NAMES = "names.txt"  # beside a label.txt or .rec, or in the directory of the identities' folders
OLD_LABELS = "old_labels.txt"  # lines 'label<TAB>old label'


def names_of(dataset: Dataset) -> dict[int, str]:
    """Return the names of a dataset's identities by label, of those that have one.

    Raises UserError if its names.txt cannot be read or has a line that is not a label and a name.
    """
    folders = isinstance(dataset, ImageFolder)
    file = dataset.file / NAMES if folders else dataset.file.with_name(NAMES)
    if file.exists():
        return _read_names(file, dataset.num_classes)
    if not folders:
        return {}
    first = np.unique(dataset.labels, return_index=True)[1]
    names = (Path(dataset.name(int(index))).parent.name for index in first)
    return {label: name for label, name in enumerate(names) if name != number_name(label)}


def number_name(label: int) -> str:
    """Return the name of the folder of an identity that has no name."""
    return f"{label:07d}"


def write_names(names: list[str], origin: Path, directory: Path) -> None:
    """Write names.txt, the name of each label in turn, unless all of them are ''; raises OSError if it cannot be written.

    Raises UserError for a name with a line break, which says that it is from `origin`.
    """
    for name in names:
        if "\n" in name:
            raise UserError(f"{origin}: the name {name!r} has a line break; rename the folder")
    if any(names):
        with atomic_write(directory / NAMES) as file:
            file.writelines(b"%d\t%s\n" % (label, os.fsencode(name)) for label, name in enumerate(names) if name)


def write_old_labels(old_labels: np.ndarray | None, directory: Path) -> None:
    """Write old_labels.txt, the old label of each label, unless it is None; raises OSError if it cannot be written."""
    if old_labels is not None:
        with atomic_write(directory / OLD_LABELS) as file:
            file.writelines(b"%d\t%d\n" % (label, old) for label, old in enumerate(old_labels.tolist()))


def _read_names(file: Path, identities: int) -> dict[int, str]:
    names = {}
    try:
        lines = file.read_bytes().decode(errors="surrogateescape").split("\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); correct the permissions, or remove it") from error
    for number, line in enumerate(lines, 1):
        label, tab, name = line.partition("\t")
        if not line.strip():
            continue
        if not (tab and label.isascii() and label.isdecimal() and int(label) < identities):
            raise UserError(f"{file} line {number}: '{line[:100]}' is not a label below {identities}, a tab and a name; correct it")
        names[int(label)] = name
    return names
