#!/usr/bin/env python3
"""Draw a small data set of cartoon faces, to see a training work on a laptop without any real data.

    python datasets/demo.py                       # 100 people x 20 images and 600 pairs, in datasets/demo
    python datasets/demo.py --output /tmp/faces --identities 5000 --num_workers 8

It writes what a real data set has, in the same formats:

    images/00000000.jpg ...   112x112 RGB JPEG files
    label.txt                 a line for each of them: images/00000000.jpg<TAB>0
    demo.bin                  verification pairs of people who are not in images/, in InsightFace's format: a
                              pickle of (jpegs, issame), pair i being the files jpegs[2i] and jpegs[2i + 1]
    demo.json                 the arguments that made it

A person is the shapes and colours of a face; an image adds pose, light, expression, background, noise and at
times sunglasses, a cap or a hand. The same arguments give the same bytes, whatever the number of processes;
another version of numpy or OpenCV rounds a few pixels otherwise.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import cv2
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing here is installed

from drawn_faces import draw_person, generator

from arcface.command import run
from arcface.data.bin_file import write_bin
from arcface.errors import UserError
from arcface.io.files import user_path

VERSION = 1  # raise it when the same arguments begin to draw something else
FOLDS = 10  # of the verification protocol
PAIRS_PER_PERSON = 10  # 600 pairs are of 60 people
SHOTS_PER_PERSON = 10  # images of a held-out person that pairs choose from
TRAINING, HELD_OUT, PAIRS = range(3)  # a word of every random key, so that no two streams meet


def choose_pairs(seed, people, pairs):
    """`pairs` pairs ((person, image), (person, image)), none twice: same person, different, same, ...

    Taking turns gives each of ten contiguous folds as many of both kinds.
    """
    rng, chosen = generator(seed, PAIRS), {}  # a dictionary keeps the order
    while len(chosen) < pairs:
        if len(chosen) % 2 == 0:
            who, shots = [len(chosen) // 2 % people] * 2, rng.choice(SHOTS_PER_PERSON, 2, replace=False)
        else:
            who, shots = rng.choice(people, 2, replace=False), rng.integers(SHOTS_PER_PERSON, size=2)
        chosen.setdefault(tuple(sorted((int(person), int(shot)) for person, shot in zip(who, shots, strict=True))))
    return list(chosen)


def start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def write(folder, args, manifest):
    """Write the whole data set into the empty folder `folder`."""
    people = args.pairs // PAIRS_PER_PERSON
    jobs = [(args.seed, TRAINING, person, args.images_per_identity) for person in range(args.identities)]
    jobs += [(args.seed, HELD_OUT, person, SHOTS_PER_PERSON) for person in range(people)]
    (folder / "images").mkdir()
    lines, held_out = [], []
    cv2.setNumThreads(1)  # here, since a forked process may wait for ever for threads that it does not have
    with multiprocessing.Pool(args.num_workers, start_worker) as pool:
        drawn = pool.imap(draw_person, jobs)  # in the order of the jobs
        for job, jpegs in zip(jobs, tqdm(drawn, "drawing", len(jobs), unit=" people", mininterval=1), strict=True):
            if job[1] == HELD_OUT:
                held_out.append(jpegs)
                continue
            for jpeg in jpegs:
                name = f"images/{len(lines):08d}.jpg"
                (folder / name).write_bytes(jpeg)
                lines.append(f"{name}\t{job[2]}\n")
    pairs = choose_pairs(args.seed, people, args.pairs)
    jpegs = [held_out[person][shot] for pair in pairs for person, shot in pair]
    issame = [left[0] == right[0] for left, right in pairs]
    (folder / "label.txt").write_bytes("".join(lines).encode())
    write_bin(folder / "demo.bin", jpegs, issame)
    (folder / "demo.json").write_bytes(manifest)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail  # one line, without the usage
    add = parser.add_argument
    add(
        "--output",
        type=user_path,
        default=Path(__file__).resolve().parent / "demo",
        metavar="FOLDER",
        help="where to write; must be new or empty (default: demo beside this script)",
    )
    add("--identities", type=int, default=100, metavar="N", help="people to train on (default: 100)")
    add("--images_per_identity", type=int, default=20, metavar="M", help="images of each (default: 20)")
    add(
        "--pairs",
        type=int,
        default=600,
        metavar="P",
        help="verification pairs, a multiple of 20 so that ten folds are balanced (default: 600)",
    )
    add("--seed", type=int, default=0, metavar="S", help="another seed draws other people (default: 0)")
    add("--num_workers", type=int, default=1, metavar="W", help="processes that draw (default: 1)")
    args = parser.parse_args(argv)
    least = {"identities": 2, "images_per_identity": 1, "pairs": 2 * FOLDS, "seed": 0, "num_workers": 1}
    for name, value in least.items():
        if getattr(args, name) < value:
            fail(f"--{name} is {getattr(args, name)}, but must be at least {value}")
    if args.pairs % (2 * FOLDS):
        fail(f"--pairs is {args.pairs}, but must be a multiple of {2 * FOLDS}, for ten balanced folds")
    return args


def fail(message):
    raise UserError(f"{message}; see demo.py --help")


def main(argv=None):
    args = parse(argv)
    options = {name: getattr(args, name) for name in ("identities", "images_per_identity", "pairs", "seed")}
    manifest = json.dumps({"version": VERSION, **options}, indent=1).encode() + b"\n"
    output, mark = args.output, args.output / "demo.json"
    try:
        if mark.is_file() and mark.read_bytes() == manifest:
            print(f"{output} holds this data set already: nothing to do")
            return
        if output.is_symlink() or (output.exists() and not (output.is_dir() and not any(output.iterdir()))):
            raise UserError(f"{output}: exists and holds something else; remove it or choose another --output")
        # Written beside the output and renamed at the end: whoever sees the output sees all of it.
        partial = output.parent / f".{output.name}.{os.getpid()}.partial"
        partial.mkdir(parents=True)
        try:
            write(partial, args, manifest)
            os.rename(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); choose another --output") from error
    print(
        f"{output}: {args.identities * args.images_per_identity} images of {args.identities} people, {args.pairs} pairs of others"
    )


if __name__ == "__main__":
    run(main)
