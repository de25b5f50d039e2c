#!/usr/bin/env python3
"""Merge data sets of training images, in whichever layouts, into one.

    python datasets/merge.py --sources MS1M_v2 mine --output both/train.rec --without MS1M_v2/lfw.bin
    python datasets/merge.py --sources MS1M_v2 mine --output both --mapping same_people.txt

The people of the second source are numbered after those of the first, and so on; the images are ordered by person. People
who are in several sources are joined by one or both of

    --same_names           equal names, of folders or in a names.txt of lines 'label<TAB>name'
    --mapping FILE         lines 'source<TAB>label<TAB>new label': the person with this label in the second source (2), third
                           (3), ... is one of an earlier source, whose label in the output is the new label

--without leaves out people with an image that is, byte for byte, in a verification set: the numbers of the others close up.

Nothing is overwritten. An interrupted run leaves OUTPUT.partial, and the same command goes on there.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing here is installed

from layouts import add_layout, check_output, content_of, in_order, layout_of, write
from rows import Rows, people_of

from arcface.command import run
from arcface.data.bin_file import read_bin
from arcface.data.datasets.base import open_dataset
from arcface.errors import UserError
from arcface.io.files import user_path


def read_mapping(file, sources):
    """{(number of the source, label): new label} of a mapping."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"--mapping {file}: cannot be read ({error.strerror}); give a text file") from error
    mapping = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split()
        if len(words) != 3 or not all(word.isascii() and word.isdecimal() for word in words):
            raise UserError(f"{file} line {number}: not three whole numbers, source, label and new label; correct the line")
        source, label, new = map(int, words)
        if not (2 <= source <= len(sources) and label < sources[source - 1].num_classes):
            raise UserError(f"{file} line {number}: there is no person {label} in a source {source} after the first; correct it")
        if (source, label) in mapping:
            raise UserError(f"{file} line {number}: person {label} of source {source} has a new label already; remove a line")
        mapping[source, label] = new
    return mapping


def join(sources, same_names, mapping):
    """New labels of the people of each source, int64 [its people] each, and the names of all by new label."""
    tables, people, known = [], [], {}
    for number, source in enumerate(sources, 1):
        names, earlier, table = people_of(source), len(people), []
        if same_names and not any(names):
            raise UserError(f"{source.file}: --same_names needs names of its people; write a names.txt of lines 'label<TAB>name'")
        for label, name in enumerate(names):
            new = mapping.get((number, label), known.get(name) if same_names and name else None)
            if new is None:
                new = len(people)
                people.append(name)
                known[name] = new
            elif (number, label) in mapping and new >= earlier:
                raise UserError(
                    f"--mapping: person {label} of source {number} has new label {new}, but earlier sources have"
                    f" {earlier} people; correct the line"
                )
            table.append(new)
        tables.append(np.array(table))
    return tables, people


def people_in(rows, files, workers):
    """The labels of people with an image that is in a verification set."""
    contents = np.array([content_of(image) for file in files for image in dict.fromkeys(read_bin(file).images)], np.uint64)

    def contents_of(chunk):
        return [content_of(rows.encoded(row)) for row in chunk]

    found = np.fromiter(
        (content for chunk in in_order(contents_of, range(len(rows)), workers, "comparing") for content in chunk),
        np.uint64,
        len(rows),
    )
    return np.unique(rows.labels[np.isin(found, contents)])


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    add("--sources", type=user_path, required=True, nargs="+", metavar="PATH", help="the data sets, as train.py takes --data_dir")
    add("--output", type=user_path, required=True, metavar="PATH", help="the file NAME.rec or the directory to write")
    add("--same_names", action="store_true", help="people with equal names are one person")
    add("--mapping", type=user_path, metavar="FILE", help="list of people who are in several sources, see above")
    add("--without", type=user_path, nargs="+", default=[], metavar="FILE.bin", help="verification sets whose people are left out")
    add_layout(add)
    args = parser.parse_args(argv)
    if args.num_workers < 1:
        fail(f"--num_workers {args.num_workers}: at least one thread is needed")
    if not 2 <= len(args.sources) < 256:
        fail(f"--sources: {len(args.sources)} data set; give two or more, 255 at most")
    return args


def fail(message):
    raise UserError(f"{message}; see merge.py --help")


def main(argv=None):
    args = parse(argv)
    layout = layout_of(args.output, args.layout)
    check_output(args.output, layout, [])
    sources = [open_dataset(path) for path in args.sources]
    check_output(args.output, layout, sources)
    tables, people = join(sources, args.same_names, read_mapping(args.mapping, sources) if args.mapping else {})
    labels = np.concatenate([table[source.labels] for table, source in zip(tables, sources, strict=True)])
    number = np.repeat(np.arange(len(sources), dtype=np.uint8), list(map(len, sources)))
    rows = Rows(sources, number, np.concatenate([np.arange(len(source)) for source in sources]), labels, people)
    out = people_in(rows, args.without, args.num_workers) if args.without else []
    order = np.argsort(labels, kind="stable")
    rows = rows.pick(order[~np.isin(labels[order], out)])
    joined = sum(map(len, tables)) - len(people)
    print(f"{write(rows, args.output, layout, args.num_workers)}; {joined} joined, {len(out)} left out")


if __name__ == "__main__":
    run(main)
