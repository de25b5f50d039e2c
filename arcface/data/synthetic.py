"""A synthetic dataset of drawn faces, with verification pairs, in the formats of a real one."""

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from arcface.data.bin_file import write_bin
from arcface.data.drawn_faces import draw_identity, generator
from arcface.errors import UserError
from arcface.options.kinds import Count, PathName, Seed

VERSION = 1  # increase it when the same options begin to draw something else
DEFAULT_OUTPUT = "datasets/demo"
FOLDS = 10  # of the verification protocol
PAIRS_PER_IDENTITY = 10  # 600 pairs are of 60 identities
IMAGES_PER_HELD_OUT = 10  # that pairs choose from
TRAINING, HELD_OUT, PAIRS = range(3)  # a part of every random key, so that no two streams meet


@dataclass(kw_only=True)
class DemoOptions:
    """Dataset to draw"""

    output: PathName | None = None
    """Where to write, which must be new or empty; datasets/demo when not given."""
    identities: Count = 100
    """Identities to train on, at least 2."""
    images_per_identity: Count = 20
    """Images of each."""
    pairs: Count = 600
    """Verification pairs, a multiple of 20 so that ten folds are balanced."""
    seed: Seed = 0
    """Another seed draws other identities."""
    num_workers: Count = 1
    """Processes that draw."""


def make_demo(options: DemoOptions) -> str:
    """Draw the dataset, unless it exists, and return the line that says what it is.

    Raises UserError if an option is wrong, or the output is something else or cannot be written.
    """
    if options.identities < 2:
        raise UserError(f"--identities: must be a whole number from 2 up, not {options.identities}; see --help")
    if options.pairs % (2 * FOLDS):
        nearest = -(-options.pairs // (2 * FOLDS)) * 2 * FOLDS
        raise UserError(f"--pairs: must be a multiple of {2 * FOLDS} for ten balanced folds, not {options.pairs}; pass {nearest}")
    output = Path(options.output or DEFAULT_OUTPUT)
    mark, manifest = output / "demo.json", manifest_of(options)
    try:
        if mark.is_file() and mark.read_bytes() == manifest:
            return f"{output}: exists already, with these options"
        if output.is_symlink() or (output.exists() and not (output.is_dir() and not any(output.iterdir()))):
            raise UserError(f"{output}: exists and contains something else; remove it or choose another --output")
        # Written beside the output and renamed at the end: whoever sees the output sees all of it.
        partial = output.parent / f".{output.name}.{os.getpid()}.partial"
        partial.mkdir(parents=True)
        try:
            _write(partial, options)
            os.rename(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); choose another --output") from error
    return (
        f"{output}: {options.identities * options.images_per_identity} images of {options.identities} identities,"
        f" {options.pairs} pairs of others"
    )


def manifest_of(options: DemoOptions) -> bytes:
    """Return the content of demo.json: the options that the images depend on."""
    chosen = {name: value for name, value in asdict(options).items() if name not in ("output", "num_workers")}
    return json.dumps({"version": VERSION, **chosen}, indent=1).encode() + b"\n"


def choose_pairs(seed: int, identities: int, pairs: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return `pairs` pairs ((identity, image), (identity, image)), none twice: same identity, different, same, ...

    Taking turns gives each of ten contiguous folds as many of both kinds.
    """
    rng = generator(seed, PAIRS)
    chosen: dict[tuple[tuple[int, int], tuple[int, int]], None] = {}  # a dictionary keeps the order
    while len(chosen) < pairs:
        if len(chosen) % 2 == 0:
            one = other = len(chosen) // 2 % identities
            images = rng.choice(IMAGES_PER_HELD_OUT, 2, replace=False)
        else:
            one, other = map(int, rng.choice(identities, 2, replace=False))
            images = rng.integers(IMAGES_PER_HELD_OUT, size=2)
        left, right = sorted([(one, int(images[0])), (other, int(images[1]))])
        chosen.setdefault((left, right))
    return list(chosen)


def _write(folder: Path, options: DemoOptions) -> None:
    """Write the whole dataset into an empty folder; raises OSError."""
    held_out_identities = options.pairs // PAIRS_PER_IDENTITY
    jobs = [(options.seed, TRAINING, identity, options.images_per_identity) for identity in range(options.identities)]
    jobs += [(options.seed, HELD_OUT, identity, IMAGES_PER_HELD_OUT) for identity in range(held_out_identities)]
    (folder / "images").mkdir()
    lines: list[str] = []
    held_out: list[list[bytes]] = []
    cv2.setNumThreads(1)  # here, since a forked process may wait forever for threads that it does not have
    with multiprocessing.Pool(options.num_workers, _start_worker) as pool:
        drawn = pool.imap(draw_identity, jobs)  # in the order of the jobs
        for job, jpegs in zip(jobs, tqdm(drawn, "drawing", len(jobs), unit=" identities", mininterval=1), strict=True):
            _, group, label, _ = job
            if group == HELD_OUT:
                held_out.append(jpegs)
                continue
            for jpeg in jpegs:
                name = f"images/{len(lines):08d}.jpg"
                (folder / name).write_bytes(jpeg)
                lines.append(f"{name}\t{label}\n")
    pairs = choose_pairs(options.seed, held_out_identities, options.pairs)
    jpegs = [held_out[identity][image] for pair in pairs for identity, image in pair]
    (folder / "label.txt").write_bytes("".join(lines).encode())
    write_bin(folder / "demo.bin", jpegs, [left[0] == right[0] for left, right in pairs])
    (folder / "demo.json").write_bytes(manifest_of(options))


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
