"""Writes datasets in each layout, in order, with several threads; an interrupted run resumes at the first missing image."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arcface.data.datasets.base import Dataset
from arcface.data.datasets.image_folder import ImageFolder
from arcface.data.file_writer import write_files
from arcface.data.names import NAMES, OLD_LABELS
from arcface.data.record_writer import write_records
from arcface.data.selection import Selection
from arcface.data.unfinished import partial_of
from arcface.errors import UserError
from arcface.options.kinds import Count

Layout = Literal["rec", "label", "folder"]


@dataclass(kw_only=True)
class WriteOptions:
    """How a dataset is written"""

    layout: Layout | None = None
    """rec: a .rec file, its .idx and property; label: images/ and label.txt; folder: a folder for each identity. When not
    given, rec for a name that ends in .rec, else label."""
    num_workers: Count | None = None
    """Threads; one per core when not given. Use more where files lie on a network."""

    @property
    def threads(self) -> int:
        """How many threads to use."""
        return self.num_workers or os.cpu_count() or 1

    def layout_of(self, output: Path) -> Layout:
        """Return the layout in which `output` is written."""
        return self.layout or ("rec" if output.suffix == ".rec" else "label")


def check_output(output: Path, layout: Layout, datasets: Sequence[Dataset] = ()) -> None:
    """Raise the UserError for an output that `write` would refuse, or that lies in one of the datasets that it is made of.

    For callers with long work before it.
    """
    files = [output]
    if layout == "rec" and not partial_of(output).exists():
        files += [output.with_suffix(".idx"), *map(output.with_name, ("property", NAMES, OLD_LABELS))]
    for file in files:
        check_absent(file)
    if not output.parent.is_dir():
        raise UserError(f"{output}: its directory does not exist; create it or pass another name")
    if (output.suffix == ".rec") != (layout == "rec"):
        raise UserError(f"{output}: the name of a .rec file ends in .rec, the name of a directory does not; choose another one")
    for dataset in datasets:
        if isinstance(dataset, ImageFolder) and output.resolve().is_relative_to(dataset.file.resolve()):
            raise UserError(f"{output}: lies in {dataset.file}, whose identities it would join; choose another directory")


def check_absent(file: Path) -> None:
    """Raise UserError if there is a file or directory of this name already."""
    if os.path.lexists(file):
        raise UserError(f"{file}: exists already; remove it, or choose another --output")


def check_identities(selection: Selection, output: Path) -> None:
    """Raise UserError if a selection has too few identities to train on."""
    if selection.num_classes < 2:
        raise UserError(f"{output}: would have {selection.num_classes} identity; at least two are needed")


def write(selection: Selection, output: Path, layout: Layout, threads: int) -> str:
    """Write a dataset under the name `output`, and return the line that says what it is.

    While it is being written it is called OUTPUT.partial; a later call with the same selection resumes there.

    Raises UserError if it cannot be written or resumed, or an image cannot be read.
    """
    check_identities(selection, output)
    try:
        if layout == "rec":
            resumed = write_records(selection, output, threads)
        else:
            resumed = write_files(selection, output, layout, threads)
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror or error}); correct that, then the same command resumes"
        ) from error
    return describe(selection, output) + (f", {resumed:,} of them written by an earlier run" if resumed else "")


def describe(selection: Selection, output: Path) -> str:
    """Return the line that says what was written."""
    return f"{output}: {len(selection):,} images of {selection.num_classes:,} identities"
