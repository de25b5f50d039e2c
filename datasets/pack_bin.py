#!/usr/bin/env python3
"""Pack aligned face crops and a list of pairs into one verification file, InsightFace's .bin.

    python datasets/pack_bin.py --images lfw_112x112 --pairs pairs.txt --output MS1M_v2/lfw.bin
    python valid.py --checkpoint emore_arcface --data_dir MS1M_v2 --val_targets lfw

The images are 112x112 crops, aligned as the training images are; their files go into the .bin as they are. The
list of pairs is either

    LFW's pairs.txt           for images lfw_112x112/Abel_Pacheco/Abel_Pacheco_0001.jpg (or .png): its first line
                              counts, as 10<TAB>300 does, then Abel_Pacheco<TAB>1<TAB>4 pairs two images of one
                              person and Abdel_Madi_Shabneh<TAB>1<TAB>Dean_Barker<TAB>1 images of two people
    lines path path 0|1       for any other layout: two files in --images, 1 if they show one person;
                              a/1.jpg<TAB>a/2.jpg<TAB>1, with tabs if a path has spaces; '#' begins a comment

The pairs keep their order. Accuracy is measured in ten folds of consecutive pairs: each tenth of the list should
hold both kinds of pairs, and people that no other tenth has, as in LFW's.
"""
import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))   # nothing here is installed

from arcface.command_line import run
from arcface.errors import UserError
from arcface.files import user_path
from arcface.images import decode
from arcface.verification.bin_file import check_output, write_bin
from arcface.verification.pairs_file import read_pairs


def read_images(files):
    """{file: its bytes} of each distinct file; the first that is no 112x112 image is a UserError."""
    encoded = {}
    with tqdm(dict.fromkeys(files), "reading", unit=" images", mininterval=1, disable=None) as distinct:
        for file in distinct:
            try:
                encoded[file] = file.read_bytes()
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror or error}); restore the file") from error
            decode(encoded[file], str(file))
    return encoded


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail   # one line, without the usage
    add = parser.add_argument
    add("--images", type=user_path, required=True, metavar="FOLDER", help="the aligned crops")
    add("--pairs", type=user_path, required=True, metavar="FILE", help="the list of pairs")
    add("--output", type=user_path, required=True, metavar="FILE.bin", help="the file to write; valid.py calls the set FILE")
    add("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


def fail(message):
    raise UserError(f"{message}; see pack_bin.py --help")


def main(argv=None):
    args = parse(argv)
    check_output(args.output, args.overwrite)
    if args.output.suffix != ".bin":
        raise UserError(f"{args.output}: valid.py would not find it; name it {args.output.with_suffix('.bin').name}")
    pairs = read_pairs(args.pairs)
    files = pairs.find_images(args.images)
    encoded = read_images(files)
    write_bin(args.output, [encoded[file] for file in files], pairs.same, args.overwrite)
    print(f"{args.output}: {len(pairs.same)} pairs, {len(encoded)} distinct images, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    run(main)
