#!/usr/bin/env python3
"""Check a data set of training images: decode all of them, and compare their contents and labels.

    python datasets/check.py --source MS1M_v2
    python datasets/check.py --source ms1m/train.rec --report ms1m_report --repair ms1m_sound/train.rec --without_copies

Bad are images that cannot be read or decoded or are not 112x112; each is listed with its line, byte or path.
Black are images of which over half of the pixels are exactly 0, as after an alignment by wrong landmarks; they count as sound.
Copies are images with equal bytes. --report DIR goes on after an interruption, and holds

    bad.txt                lines 'row<TAB>where it is and what is wrong', rows from 0
    black.txt              lines 'row<TAB>where it is'
    copies.txt             lines 'row<TAB>label<TAB>row of the first such image<TAB>its label'
    images_a_person.png    how many people have how many images

The exit code is 0 if nothing is wrong, 1 if something is (also if a copy was written that is sound), 2 for a wrong option.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing here is installed

from layouts import add_layout, check_output, content_of, in_order, layout_of, locked, write
from rows import whole

from arcface.command import run
from arcface.data.datasets.base import open_dataset
from arcface.errors import UserError
from arcface.io.files import atomic_write, user_path
from arcface.io.images import decode_crop, mostly_black

UNKNOWN = 0  # the content of an image that is bad, or was not looked at yet
BLACK = 1  # the lowest bit of a content: whether the image is black
FORMAT = 2  # of the file of contents
BARS = 60  # of the picture, at most


@contextlib.contextmanager
def kept_contents(rows, report):
    """Give the contents that an earlier run found, uint64 [n], in a file of the report that changes as they do."""
    if report is None:
        yield np.zeros(len(rows), np.uint64)
        return
    path = report / "contents.partial"
    with locked(path) as file:
        stamp = np.frombuffer(rows.fingerprint(), np.uint64) ^ np.uint64(FORMAT)
        words, size = len(stamp) + len(rows), path.stat().st_size
        kept = np.memmap(file, np.uint64, "r+", shape=words) if size in (0, 8 * words) else None
        if kept is None or (kept[: len(stamp)].any() and (kept[: len(stamp)] != stamp).any()):
            raise UserError(f"{path}: was begun for other images or labels; remove it, or choose another --report")
        kept[: len(stamp)] = stamp
        yield kept[len(stamp) :]
        path.unlink()


def check_images(rows, contents, workers):
    """Fill in the unknown contents; returns what is wrong by row."""
    complaints, unknown = {}, np.flatnonzero(contents == UNKNOWN)

    def check(positions):
        return [(row, *check_image(rows, row)) for row in unknown[positions.start : positions.stop].tolist()]

    for results in in_order(check, range(len(unknown)), workers, "checking"):
        for row, contents[row], complaint in results:
            if complaint:
                complaints[row] = complaint
    return complaints


def check_image(rows, row):
    """(content, None) of an image, or (UNKNOWN, what is wrong)."""
    try:
        image = rows.encoded(row)
        black = mostly_black(decode_crop(image, rows.name(row)))
    except UserError as error:
        return UNKNOWN, str(error)
    return content_of(image) & ~BLACK | black, None


def advise_black(rows, black):
    """What to do about black images; None if there are none."""
    if not len(black):
        return None
    return (
        f"the first: {rows.name(black[0])}; was it aligned by landmarks in another order, or of another photo? Align them again, or"
        " leave them out by --repair OUTPUT --without_black"
    )


def find_copies(contents):
    """Rows whose content occurs before, ascending, and for each the row where it is first: int64 [copies] twice."""
    sound = np.flatnonzero(contents != UNKNOWN)
    _, first, group = np.unique(contents[sound], return_index=True, return_inverse=True)
    first = sound[first[group]]
    again = first != sound
    return sound[again], first[again]


def picture(counts):
    """A PNG of how many people have how many images."""
    from matplotlib.figure import Figure

    from arcface.verification.plots import png

    figure = Figure((8, 4), layout="constrained")
    axes = figure.subplots()
    width = -(-int(counts.max()) // BARS)
    axes.hist(counts, np.arange(0, counts.max() + width, width) + 0.5)
    axes.set_yscale("symlog", linthresh=1)  # the rare large ones show too
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="images a person", ylabel="people", title=f"{counts.sum():,} images of {len(counts):,} people")
    return png(figure)


def write_list(path, lines):
    with atomic_write(path) as file:
        file.writelines(line.encode(errors="surrogateescape") + b"\n" for line in lines)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    add("--source", type=user_path, required=True, metavar="PATH", help="the data set, as train.py takes it as --data_dir")
    add("--report", type=user_path, metavar="DIR", help="directory for lists and picture, made if need be")
    add(
        "--repair",
        type=user_path,
        metavar="OUTPUT",
        help="if something is wrong, write a copy without the bad images; people are numbered without a gap",
    )
    add(
        "--without_copies",
        action="store_true",
        help="leave out copies too: of equal images of one person the first stays, of those of several people none",
    )
    add("--without_black", action="store_true", help="leave out images that are black to more than half")
    add_layout(add)
    args = parser.parse_args(argv)
    if args.num_workers < 1:
        fail(f"--num_workers {args.num_workers}: at least one thread is needed")
    if args.repair is None and (args.without_copies or args.without_black or args.layout):
        fail("--without_copies, --without_black and --layout say how the copy is written: give --repair OUTPUT")
    return args


def fail(message):
    raise UserError(f"{message}; see check.py --help")


def check(args):
    """Check, report and repair; returns the number of findings."""
    from arcface.doctor.data import histogram  # imports Paddle, which a wrong option need not wait for
    from arcface.doctor.report import Report

    report = Report()
    with report.examining("data set"):
        source = open_dataset(args.source)
    if report.findings:
        report.end()
        return report.findings
    if args.repair:
        layout = layout_of(args.repair, args.layout)
        check_output(args.repair, layout, [source])
    rows, counts = whole(source), np.bincount(source.labels)
    report.line("data set", f"{source.file}: {len(rows):,} images of {source.num_classes:,} people, no label left out")
    report.line(
        "images a person",
        f"{counts.min():,} to {counts.max():,}, median {np.median(counts):g}; people by images: {histogram(counts)}",
    )
    cv2.setNumThreads(1)
    with kept_contents(rows, args.report) as contents:
        complaints = check_images(rows, contents, args.num_workers)
        bad = [f"{row}\t{complaints[row]}" for row in sorted(complaints)]
        report.line(
            "images",
            f"{len(rows) - len(bad):,} sound, {len(bad):,} bad",
            f"the first: {complaints[min(complaints)]}; or write a copy without bad images by --repair OUTPUT" if bad else None,
        )
        if not args.report:
            print("".join(f"    {line}\n" for line in bad), end="")
        black = np.flatnonzero(contents & BLACK)
        report.line("black", f"{len(black):,} of which over half of the pixels are 0", advise_black(rows, black))
        copies, originals = find_copies(contents)
        labels = rows.labels
        mixed = copies[labels[copies] != labels[originals]]
        report.line(
            "copies",
            f"{len(copies):,} equal to an image before, {len(mixed):,} of them to one of another person",
            f"the first: {rows.name(copies[0])} is {rows.name(originals[0])}; leave them out by --repair OUTPUT --without_copies"
            if len(copies)
            else None,
        )
        if args.repair and report.findings:
            keep = contents != UNKNOWN
            if args.without_copies:
                keep[copies] = False
                keep &= ~np.isin(contents, contents[mixed])
            if args.without_black:
                keep[black] = False
            if not keep.all():
                report.line("repaired", write(rows.pick(np.flatnonzero(keep)), args.repair, layout, args.num_workers))
        if args.report:
            write_list(args.report / "black.txt", (f"{row}\t{rows.name(row)}" for row in black))
            write_list(
                args.report / "copies.txt",
                (
                    f"{copy}\t{labels[copy]}\t{original}\t{labels[original]}"
                    for copy, original in zip(copies, originals, strict=True)
                ),
            )
            with atomic_write(args.report / "images_a_person.png") as file:
                file.write(picture(counts))
            write_list(args.report / "bad.txt", bad)
    report.end()
    return report.findings


def main(argv=None):
    args = parse(argv)
    if args.report and (args.report / "bad.txt").exists():
        raise UserError(f"--report {args.report}: holds a report already; choose another directory")
    if not args.source.exists():
        raise UserError(f"--source {args.source}: no such file or directory; give the data set")
    if args.repair:
        check_output(args.repair, layout_of(args.repair, args.layout), [])
    try:
        if args.report:
            args.report.mkdir(exist_ok=True)
        findings = check(args)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--report {args.report}: cannot be written ({reason}); choose another directory") from error
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    run(main)
