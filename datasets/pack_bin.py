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

Missing images are an error. --skip_missing N leaves out the pairs of up to N images, such as those without a face that a
detector finds, and lists the images in FILE.missing.txt, with the lines of --pairs that show them.

The pairs keep their order. Accuracy is measured in ten folds of consecutive pairs: each tenth of the list should
hold both kinds of pairs, and people that no other tenth has, as in LFW's. Where pairs are left out, later ones move up, some
into the fold before: the accuracy then compares only with that of sets that lack the same pairs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing here is installed

from arcface.command import run
from arcface.data.bin_file import check_both_kinds, check_output, write_bin
from arcface.errors import UserError
from arcface.io.files import atomic_write, user_path
from arcface.io.images import decode
from arcface.verification.pair_lists import read_pairs

FOLDS = 10  # of valid.py
NAMED = 10  # missing images, at most, that are named on the terminal


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


def split(pairs, files):
    """The pairs that have both images, int64 [kept], and {missing image: the lines of its pairs}."""
    missing = {}
    for position, (path, file) in enumerate(zip(pairs.paths, files, strict=True)):
        if file is None:
            missing.setdefault(path, []).append(pairs.lines[position // 2])
    there = np.array([file is not None for file in files]).reshape(-1, 2).all(axis=1)
    return np.flatnonzero(there), missing


def write_all(output, images, same, overwrite, list_file, missing):
    """Write the set and, if images are missing, their list; one of an earlier set is removed if none are."""
    if not missing:
        write_bin(output, images, same, overwrite)
        list_file.unlink(missing_ok=True)
        return
    try:
        with atomic_write(list_file) as file:  # has its name only when the set has
            for path, lines in missing.items():
                file.write(f"{path}\t{','.join(map(str, lines))}\n".encode(errors="surrogateescape"))
            write_bin(output, images, same, overwrite)
    except OSError as error:
        raise UserError(f"{list_file}: cannot be written ({error.strerror or error}); choose another place or make room") from error


def fold_of(pairs):
    """The fold of each of so many pairs."""
    return np.concatenate([np.full(len(part), fold) for fold, part in enumerate(np.array_split(np.arange(pairs), FOLDS))])


def describe_missing(missing, kept, pairs):
    """What is left out, and what that does to the folds."""
    names = ", ".join(list(missing)[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
    left_out = len(pairs.is_same) - len(kept)
    moved = (fold_of(len(pairs.is_same))[kept] != fold_of(len(kept))).sum()
    same = sum(pairs.is_same) - sum(pairs.is_same[pair] for pair in kept)
    return (
        f"{len(missing)} missing images: {names}; {left_out} pairs left out, {same} of one person; {moved} of the others are in"
        f" another of the {FOLDS} folds than in the whole list"
    )


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    add("--images", type=user_path, required=True, metavar="FOLDER", help="the aligned crops")
    add("--pairs", type=user_path, required=True, metavar="FILE", help="the list of pairs")
    add("--output", type=user_path, required=True, metavar="FILE.bin", help="the file to write; valid.py calls the set FILE")
    add("--overwrite", action="store_true", help="replace an existing file")
    add(
        "--skip_missing",
        type=int,
        default=0,
        metavar="N",
        help="leave out the pairs of up to N images that are missing (default: stop at any)",
    )
    args = parser.parse_args(argv)
    if args.skip_missing < 0:
        fail(f"--skip_missing {args.skip_missing}: must be a number from 0 up")
    return args


def fail(message):
    raise UserError(f"{message}; see pack_bin.py --help")


def main(argv=None):
    args = parse(argv)
    check_output(args.output, args.overwrite)
    if args.output.suffix != ".bin":
        raise UserError(f"{args.output}: valid.py would not find it; name it {args.output.with_suffix('.bin').name}")
    list_file = args.output.with_suffix(".missing.txt")
    check_output(list_file, args.overwrite)
    pairs = read_pairs(args.pairs)
    files = pairs.find_images(args.images, args.skip_missing)
    kept, missing = split(pairs, files)
    if not len(kept):
        raise UserError(f"{args.pairs}: each of its pairs lacks an image in {args.images}; correct --images or restore the files")
    files, same = [file for pair in kept for file in files[2 * pair : 2 * pair + 2]], [pairs.is_same[pair] for pair in kept]
    check_both_kinds(args.pairs, same)
    encoded = read_images(files)
    write_all(args.output, [encoded[file] for file in files], same, args.overwrite, list_file, missing)
    print(f"{args.output}: {len(same)} pairs, {len(encoded)} distinct images, {args.output.stat().st_size} bytes")
    if missing:
        print(f"{list_file}: {describe_missing(missing, kept, pairs)}")


if __name__ == "__main__":
    run(main)
