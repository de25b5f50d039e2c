"""Checks a dataset: decodes all images, compares their contents and labels, reports, and writes a copy without the bad ones."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from arcface.data.datasets.base import open_dataset
from arcface.data.duplicates import UNKNOWN, find_copies, image_hash
from arcface.data.image_statistics import describe_identities
from arcface.data.ordered_map import ordered_map
from arcface.data.selection import Selection, whole
from arcface.data.unfinished import begun_otherwise, locked_partial
from arcface.data.writers import WriteOptions, check_output, write
from arcface.errors import UserError
from arcface.io.files import atomic_write
from arcface.io.images import decode_crop, mostly_black
from arcface.io.report import Report
from arcface.options.kinds import PathName

BLACK = 1  # the lowest bit of a kept hash: whether the image is black
FORMAT = 2  # of the file of kept hashes
MOST_BARS = 60  # of the histogram


@dataclass(kw_only=True)
class CheckOptions(WriteOptions):
    """Dataset to check"""

    source: PathName
    """The dataset, as train.py takes --data_dir."""
    report: PathName | None = None
    """Directory for lists and a histogram; created if it is missing."""
    repair: PathName | None = None
    """If something is wrong, write a copy without the bad images here; identities are relabelled without a gap."""
    without_copies: bool = False
    """Leave out copies too: of equal images of one identity the first stays, of those of several identities none."""
    without_black: bool = False
    """Leave out images of which over half of the pixels are black."""


@dataclass
class Findings:
    """What a check found.

    Attributes:
        complaints: what is wrong with each bad image, by position.
        hashes: uint64 [n], of the images' bytes but for the lowest bit, which is BLACK; UNKNOWN for bad images.
        black: int64, the positions of images of which over half of the pixels are black.
        copies, originals: int64 [copies] each, the positions of images that equal an earlier one, and of the first such image.
        mixed: int64, the copies whose label is not the original's.
    """

    complaints: dict[int, str]
    hashes: np.ndarray
    black: np.ndarray
    copies: np.ndarray
    originals: np.ndarray
    mixed: np.ndarray


def check(options: CheckOptions) -> int:
    """Check a dataset, print and write a report, write the repaired copy, and return how many findings there are.

    Raises UserError if an option is wrong or something cannot be written.
    """
    _check_options(options)
    try:
        if options.report:
            Path(options.report).mkdir(exist_ok=True)
        return _check(options)
    except OSError as error:
        if not options.report or isinstance(error, BrokenPipeError):  # of stdout: nobody reads on
            raise
        reason = error.strerror or error
        raise UserError(f"--report {options.report}: cannot be written ({reason}); choose another directory") from error


def _check_options(options: CheckOptions) -> None:
    if options.repair is None and (options.without_copies or options.without_black or options.layout):
        raise UserError("--without_copies, --without_black and --layout say how the copy is written: pass --repair OUTPUT")
    if options.report and Path(options.report, "bad.txt").exists():
        raise UserError(f"--report {options.report}: contains a report already; choose another directory")
    if not Path(options.source).exists():
        raise UserError(f"--source {options.source}: no such file or directory; pass the dataset")
    if options.repair:
        check_output(Path(options.repair), options.layout_of(Path(options.repair)))


def _check(options: CheckOptions) -> int:
    report = Report()
    with report.examining("dataset"):
        dataset = open_dataset(options.source)
    if report.findings:
        report.end()
        return report.findings
    if options.repair:
        check_output(Path(options.repair), options.layout_of(Path(options.repair)), [dataset])
    selection = whole(dataset)
    report.line("dataset", f"{dataset.file}: {len(selection):,} images of {dataset.num_classes:,} identities, no label missing")
    report.line("per identity", describe_identities(dataset.labels))
    cv2.setNumThreads(1)
    directory = Path(options.report) if options.report else None
    with kept_hashes(selection, directory) as hashes:
        findings = examine(selection, hashes, options.threads)
        bad = [f"{position}\t{findings.complaints[position]}" for position in sorted(findings.complaints)]
        describe(report, selection, findings, [] if directory else bad)
        if options.repair and report.findings:
            repair(report, selection, findings, options)
        if directory:
            write_lists(directory, selection, findings)
            with atomic_write(directory / "images_a_person.png") as file:
                file.write(histogram(np.bincount(dataset.labels)))
            write_lines(directory / "bad.txt", bad)
    report.end()
    return report.findings


@contextlib.contextmanager
def kept_hashes(selection: Selection, directory: Path | None) -> Iterator[np.ndarray]:
    """Yield the hashes that an earlier run found, uint64 [n], in a file of the report that changes as they do."""
    if directory is None:
        yield np.zeros(len(selection), np.uint64)
        return
    path = directory / "contents.partial"
    with locked_partial(path, "--report") as file:
        stamp = np.frombuffer(selection.fingerprint(), np.uint64) ^ np.uint64(FORMAT)
        words, size = len(stamp) + len(selection), path.stat().st_size
        kept = np.memmap(file, np.uint64, "r+", shape=words) if size in (0, 8 * words) else None
        if kept is None or (kept[: len(stamp)].any() and (kept[: len(stamp)] != stamp).any()):
            raise begun_otherwise(path, "--report")
        kept[: len(stamp)] = stamp
        yield kept[len(stamp) :]
        path.unlink()


def examine(selection: Selection, hashes: np.ndarray, threads: int) -> Findings:
    """Fill in the hashes that are UNKNOWN, and return what was found."""
    complaints = check_images(selection, hashes, threads)
    copies, originals = find_copies(hashes)
    mixed = copies[selection.labels[copies] != selection.labels[originals]]
    return Findings(complaints, hashes, np.flatnonzero(hashes & BLACK), copies, originals, mixed)


def check_images(selection: Selection, hashes: np.ndarray, threads: int) -> dict[int, str]:
    """Fill in the hashes that are UNKNOWN, and return what is wrong with images, by position."""
    complaints: dict[int, str] = {}
    unknown = np.flatnonzero(hashes == UNKNOWN)

    def check_chunk(chunk: range) -> list[tuple[int, int, str | None]]:
        return [(position, *check_image(selection, position)) for position in unknown[chunk.start : chunk.stop].tolist()]

    for results in ordered_map(check_chunk, range(len(unknown)), threads, "checking"):
        for position, hashes[position], complaint in results:
            if complaint:
                complaints[position] = complaint
    return complaints


def check_image(selection: Selection, position: int) -> tuple[int, str | None]:
    """Return (hash, None) of an image, or (UNKNOWN, what is wrong with it)."""
    try:
        image = selection.encoded(position)
        black = mostly_black(decode_crop(image, selection.name(position)))
    except UserError as error:
        return UNKNOWN, str(error)
    return image_hash(image) & ~BLACK | black, None


def describe(report: Report, selection: Selection, findings: Findings, bad: list[str]) -> None:
    """Report what was found; `bad` are lines to print about the bad images."""
    wrong, black, copies = findings.complaints, findings.black, findings.copies
    report.line(
        "images",
        f"{len(selection) - len(wrong):,} sound, {len(wrong):,} bad",
        f"the first: {wrong[min(wrong)]}; or write a copy without bad images with --repair OUTPUT" if wrong else None,
    )
    print("".join(f"    {line}\n" for line in bad), end="")
    report.line("black", f"{len(black):,} of which over half of the pixels are 0", advise_black(selection, black))
    report.line(
        "copies",
        f"{len(copies):,} equal to an earlier image, {len(findings.mixed):,} of them to one of another identity",
        f"the first: {selection.name(copies[0])} is {selection.name(findings.originals[0])};"
        " leave them out with --repair OUTPUT --without_copies"
        if len(copies)
        else None,
    )


def advise_black(selection: Selection, black: np.ndarray) -> str | None:
    """Return what to do about black images; None if there are none."""
    if not len(black):
        return None
    return (
        f"the first: {selection.name(black[0])}; was it aligned by landmarks in another order, or of another photo?"
        " Align them again, or leave them out with --repair OUTPUT --without_black"
    )


def repair(report: Report, selection: Selection, findings: Findings, options: CheckOptions) -> None:
    """Write a copy without the bad images, and without copies or black images if the options say so; report it."""
    keep = findings.hashes != UNKNOWN
    if options.without_copies:
        keep[findings.copies] = False
        keep &= ~np.isin(findings.hashes, findings.hashes[findings.mixed])
    if options.without_black:
        keep[findings.black] = False
    if not keep.all():
        output = Path(options.repair or "")
        line = write(selection.pick(np.flatnonzero(keep)), output, options.layout_of(output), options.threads)
        report.line("repaired", line)


def write_lists(directory: Path, selection: Selection, findings: Findings) -> None:
    """Write black.txt and copies.txt; raises OSError if they cannot be written."""
    labels, pairs = selection.labels, zip(findings.copies, findings.originals, strict=True)
    write_lines(directory / "black.txt", (f"{position}\t{selection.name(position)}" for position in findings.black))
    write_lines(directory / "copies.txt", (f"{copy}\t{labels[copy]}\t{first}\t{labels[first]}" for copy, first in pairs))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file; raises OSError if it cannot be written."""
    with atomic_write(path) as file:
        file.writelines(line.encode(errors="surrogateescape") + b"\n" for line in lines)


def histogram(counts: np.ndarray) -> bytes:
    """Return a PNG of how many identities have how many images, given the number of images of each."""
    from matplotlib.figure import Figure  # slow to import, and only needed for a report

    from arcface.io.figures import png

    figure = Figure((8, 4), layout="constrained")
    axes = figure.subplots()
    width = -(-int(counts.max()) // MOST_BARS)
    axes.hist(counts, (np.arange(0, counts.max() + width, width) + 0.5).tolist())
    axes.set_yscale("symlog", linthresh=1)  # the rare large ones show too
    axes.yaxis.set_major_formatter("{x:,.0f}")
    title = f"{counts.sum():,} images of {len(counts):,} identities"
    axes.set(xlabel="images of an identity", ylabel="identities", title=title)
    return png(figure)
