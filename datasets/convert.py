#!/usr/bin/env python3
"""Convert a data set of training images between its layouts; the images' bytes, their order and labels stay the same.

    python datasets/convert.py --source MS1M_v2 --output ms1m/train.rec
    python datasets/convert.py --source ms1m/train.rec --output MS1M_folders --layout folder

The source is what train.py takes as --data_dir: a directory with label.txt, with train.rec or with a folder for each person,
or a list or .rec file itself. Names of people, from folders or a names.txt of lines 'label<TAB>name', go along in a
names.txt; they name the folders if their order is that of the labels. In folders the images are ordered by label.

Nothing is overwritten. An interrupted run leaves OUTPUT.partial, and the same command goes on there.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))   # nothing here is installed

from layouts import add_layout, check_output, layout_of, whole, write

from arcface.command_line import run
from arcface.data.source import open_source
from arcface.errors import UserError
from arcface.files import user_path


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail   # one line, without the usage
    add = parser.add_argument
    add("--source", type=user_path, required=True, metavar="PATH", help="the data set to read")
    add("--output", type=user_path, required=True, metavar="PATH", help="the file NAME.rec or the directory to write")
    add_layout(add)
    args = parser.parse_args(argv)
    if args.num_workers < 1:
        fail(f"--num_workers {args.num_workers}: at least one thread is needed")
    return args


def fail(message):
    raise UserError(f"{message}; see convert.py --help")


def main(argv=None):
    args = parse(argv)
    layout = layout_of(args.output, args.layout)
    check_output(args.output, layout, [])
    source = open_source(args.source)
    check_output(args.output, layout, [source])
    print(write(whole(source), args.output, layout, args.num_workers))


if __name__ == "__main__":
    run(main)
