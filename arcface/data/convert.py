"""Converts a dataset between its layouts, and relabels the identities of one whose labels have gaps."""

from dataclasses import dataclass
from pathlib import Path

from arcface.data.datasets.base import Dataset, open_dataset
from arcface.data.datasets.listed_images import ListedImages
from arcface.data.names import NAMES, OLD_LABELS, write_old_labels
from arcface.data.selection import Selection, relabelled, whole
from arcface.data.writers import WriteOptions, check_absent, check_identities, check_output, describe, write
from arcface.errors import UserError
from arcface.io.files import atomic_write
from arcface.options.kinds import PathName


@dataclass(kw_only=True)
class ConvertOptions(WriteOptions):
    """Dataset to convert"""

    source: PathName
    """The dataset to read, as train.py takes --data_dir."""
    output: PathName
    """The file NAME.rec or the directory to write."""
    relabel: bool = False
    """Number identities anew, without a gap, and write the table of old labels, see above."""


def convert(options: ConvertOptions) -> str:
    """Write the dataset, and return the line that says what it is; raises UserError if that is not possible."""
    if options.relabel:
        return relabel(options)
    output = Path(options.output)
    layout = options.layout_of(output)
    check_output(output, layout)
    dataset = open_dataset(options.source)
    check_output(output, layout, [dataset])
    return write(whole(dataset), output, layout, options.threads)


def relabel(options: ConvertOptions) -> str:
    """Write a dataset, or for an output NAME.txt a list only, whose identities are numbered without a gap; as `convert`."""
    output = Path(options.output)
    layout = options.layout_of(output)
    only_list = output.suffix == ".txt" and options.layout is None
    if only_list:
        check_absent_list(output)
    else:
        check_output(output, layout)
    dataset = open_dataset(options.source, gaps=True)
    if only_list:
        check_list_of(dataset, output)
    else:
        check_output(output, layout, [dataset])
    selection = relabelled(dataset)
    line = write_list(selection, output) if only_list else write(selection, output, layout, options.threads)
    old_labels = selection.old_labels
    moved = 0 if old_labels is None else int((old_labels != range(len(old_labels))).sum())
    directory = output.parent if only_list or layout == "rec" else output
    return f"{line}; {moved:,} have another label than before, listed in {directory / OLD_LABELS}"


def check_absent_list(output: Path) -> None:
    """Raise UserError if a list, or the table of old labels beside it, exists already."""
    for file in output, output.with_name(OLD_LABELS):
        check_absent(file)


def check_list_of(dataset: Dataset, output: Path) -> None:
    """Raise UserError for a list that cannot have the paths of a dataset."""
    if not isinstance(dataset, ListedImages) or output.parent.resolve() != dataset.directory.resolve():
        raise UserError(f"{output}: a list must lie beside the list whose paths it has; or pass a directory or NAME.rec")
    if (names := output.with_name(NAMES)).exists():
        problem = f"has the names of the old labels, which {output.name} would be read with"
        raise UserError(f"{names}: {problem}; pass a directory as --output, where the names are written too")


def write_list(selection: Selection, output: Path) -> str:
    """Write the list of a selection's dataset with new labels, and the table of the old ones; returns what `write` does."""
    check_identities(selection, output)
    (dataset,) = selection.datasets
    assert isinstance(dataset, ListedImages)  # check_list_of has seen to that
    try:
        with atomic_write(output) as file:
            file.writelines(dataset.lines(selection.labels))
            write_old_labels(selection.old_labels, output.parent)  # first: a list exists with its table only
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); choose another place or make room") from error
    return describe(selection, output)
