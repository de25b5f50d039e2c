#!/usr/bin/env python3
"""Convert a data set of training images between its layouts; the images' bytes, their order and labels stay the same.

    python datasets/convert.py --source MS1M_v2 --output ms1m/train.rec
    python datasets/convert.py --source ms1m/train.rec --output MS1M_folders --layout folder
    python datasets/convert.py --source MS1M_v2/some.txt --output MS1M_v2/relabelled.txt --relabel

The source is what train.py takes as --data_dir: a directory with label.txt, with train.rec or with a folder for each person,
or a list (.txt, .lst, .csv, .parquet) or .rec file itself. Names of people, from folders or a names.txt of lines
'label<TAB>name', go along in a names.txt; they name the folders if their order is that of the labels. In folders the images
are ordered by label.

Labels must be 0, 1, ... without a gap. With --relabel they may be any whole numbers from 0 up: people keep their order and are
numbered anew, and old_labels.txt, of lines 'label<TAB>old label', says who was who. An output NAME.txt, beside the source's
list, is then a list only: the same paths with the new labels.

Nothing is overwritten. An interrupted run leaves OUTPUT.partial, and the same command goes on there.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing here is installed

from layouts import OLD_LABELS, add_layout, check_output, layout_of, write, write_old_labels
from rows import NAMES, relabelled, whole

from arcface.command import run
from arcface.data.datasets.base import open_dataset
from arcface.data.datasets.listed_images import ListedImages
from arcface.errors import UserError
from arcface.io.files import atomic_write, user_path


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    add("--source", type=user_path, required=True, metavar="PATH", help="the data set to read")
    add("--output", type=user_path, required=True, metavar="PATH", help="the file NAME.rec or the directory to write")
    add("--relabel", action="store_true", help="number people anew, without a gap, and write the table of old labels, see above")
    add_layout(add)
    args = parser.parse_args(argv)
    if args.num_workers < 1:
        fail(f"--num_workers {args.num_workers}: at least one thread is needed")
    return args


def fail(message):
    raise UserError(f"{message}; see convert.py --help")


def check_list(output, source=None):
    """Raise a UserError for a list that cannot be written beside the source's."""
    for file in output, output.with_name(OLD_LABELS):
        if os.path.lexists(file):
            raise UserError(f"{file}: exists already; remove it, or choose another --output")
    if source is None:
        return
    if not isinstance(source, ListedImages) or output.parent.resolve() != source.directory.resolve():
        raise UserError(f"{output}: a list must lie beside the list whose paths it has; or give a directory or NAME.rec")
    if (names := output.with_name(NAMES)).exists():
        problem = f"has the names of the old labels, which {output.name} would be read with"
        raise UserError(f"{names}: {problem}; give a directory as --output, in which names go along")


def write_list(rows, output):
    """Write the list of a source with new labels, and the table of the old ones; returns the line that says what it is."""
    if len(rows.people) < 2:
        raise UserError(f"{output}: would have {len(rows.people)} person; at least two are needed")
    try:
        with atomic_write(output) as file:
            file.writelines(rows.sources[0].lines(rows.labels))
            write_old_labels(rows, output.parent)  # first: a list is there with its table only
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); choose another place or make room") from error
    return f"{output}: {len(rows):,} images of {len(rows.people):,} people"


def relabel(args):
    """Write a data set, or a list only, with people numbered anew; returns the line that says what it is."""
    only_list = args.output.suffix == ".txt" and args.layout is None
    layout = layout_of(args.output, args.layout)
    check = check_list if only_list else lambda output, *sources: check_output(output, layout, sources)
    check(args.output)
    source = open_dataset(args.source, gaps=True)
    check(args.output, source)
    rows = relabelled(source)
    line = write_list(rows, args.output) if only_list else write(rows, args.output, layout, args.num_workers)
    moved = (rows.old_labels != range(len(rows.old_labels))).sum()
    place = args.output.parent if only_list or layout == "rec" else args.output
    return f"{line}; {moved:,} have another label than before, listed in {place / OLD_LABELS}"


def main(argv=None):
    args = parse(argv)
    if args.relabel:
        print(relabel(args))
        return
    layout = layout_of(args.output, args.layout)
    check_output(args.output, layout, [])
    source = open_dataset(args.source)
    check_output(args.output, layout, [source])
    print(write(whole(source), args.output, layout, args.num_workers))


if __name__ == "__main__":
    run(main)
