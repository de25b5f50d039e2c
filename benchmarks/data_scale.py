"""What it takes to open a dataset of MS1M's size in each layout, and by what worker processes grow while they read it.

    python benchmarks/data_scale.py [--people 85742] [--images-each 68] [--reads 2000000] [--directory DIR]

Makes 5,830,456 images, unless told otherwise, in DIR (default: a new directory among the temporary files, deleted at the end):
a train.rec with 68 small JPEGs over and over, folders that are links to one folder of these, and lists. Every figure is
from a process of its own. `peak` is by how much opening raises the resident memory, `kept` is the size of the arrays that
stay, by image. When reading, 4 forked processes read images at random, as the loader's workers do; their PSS, in which a
page that n processes share counts as 1/n of it, is added up when each has read 1 % of its share, and at the end.
"""

import argparse
import mmap
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from arcface.data.datasets.base import Dataset, open_dataset  # noqa: E402
from arcface.data.selection import whole  # noqa: E402
from arcface.data.writers import write  # noqa: E402

WORKERS = 4
LARGER = {"Glint360K": 17_091_657, "WebFace260M": 260_000_000}  # images


def make(directory: Path, people: int, each: int) -> None:
    """Write the datasets into `directory`, unless they are there."""
    if (directory / "made").exists():
        return
    images = [cv2.imencode(".jpg", np.full((112, 112, 3), number, np.uint8))[1].tobytes() for number in range(each)]
    for folder in ("shared", "people", "record", "no_index", "flat"):
        (directory / folder).mkdir(parents=True)
    for number, image in enumerate(images):
        (directory / "shared" / f"{number:03d}.jpg").write_bytes(image)
    for person in range(people):
        (directory / "people" / f"{person:07d}").symlink_to(directory / "shared")
    with (directory / "people.txt").open("w") as listed, (directory / "flat" / "label.txt").open("w") as flat:
        for person in range(people):
            listed.writelines(f"people/{person:07d}/{number:03d}.jpg\t{person}\n" for number in range(each))
            flat.writelines(f"images/{person * each + number:08d}.jpg\t{person}\n" for number in range(each))
    write(whole(open_dataset(directory / "people.txt")), directory / "record" / "train.rec", "rec", WORKERS)
    (directory / "no_index" / "train.rec").symlink_to(directory / "record" / "train.rec")
    (directory / "made").touch()


def memory(name: str, process: int | str = "self", file: str = "status") -> float:
    """Return a figure of /proc in MB."""
    lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def costs(action: Callable[[], object]) -> str:
    """Return the time that an action takes, and by how much it raises the resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted from here on
    before, began, began_cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    result = action()
    seconds, cpu, peak = time.perf_counter() - began, time.process_time() - began_cpu, memory("VmHWM") - before
    line = f"{seconds:6.2f} s, {cpu:5.2f} s of CPU, peak {peak:4.0f} MB"
    if result:
        kept = sum(value.nbytes for value in vars(result).values() if isinstance(value, np.ndarray))
        line += f", kept {kept / len(result):.1f} bytes"
    return line


def measure_opening(path: str) -> None:
    print(costs(lambda: open_dataset(path)))


def measure_scanning(path: str) -> None:
    source = open_dataset(path)
    print(costs(lambda: source.scan(0)))


def measure_reading(path: str, reads: str) -> None:
    read_in_workers(open_dataset(path), int(reads))


def measure_mapped(path: str, reads: str) -> None:
    """The same with a memory map in place of reads at a place; what the record says is not looked at."""
    source = open_dataset(path)
    with open(source.file, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    offsets, extents = source._offsets, source._extents
    source.encoded = lambda index: mapped[(start := int(offsets[index])) + 32 : start + int(extents[index])]
    read_in_workers(source, int(reads))


def read_in_workers(source: Dataset, reads: int) -> None:
    share, context = reads // WORKERS, multiprocessing.get_context("fork")
    cpu = context.Array("d", WORKERS)
    reached, go_on = context.Barrier(WORKERS + 1), context.Barrier(WORKERS + 1)

    def work(worker: int) -> None:
        indices = np.random.default_rng(worker).integers(0, len(source), share)
        for part in np.split(indices, [share // 100]):
            for index in part:
                source.encoded(index)
            cpu[worker] = time.process_time()
            reached.wait()
            go_on.wait()

    workers = [context.Process(target=work, args=(worker,)) for worker in range(WORKERS)]
    for worker in workers:
        worker.start()
    sums = []
    for _ in range(2):
        reached.wait()
        sums.append([sum(memory(name, worker.pid, "smaps_rollup") for worker in workers) for name in ("Pss", "Private_Dirty")])
        go_on.wait()
    for worker in workers:
        worker.join()
    (pss, private), (last_pss, last_private) = sums
    print(
        f"PSS {pss:.1f} MB, at the end {last_pss:.1f}; private {private:.1f}, {last_private:.1f};"
        f" {sum(cpu) / reads * 1e6:.1f} us of CPU a read"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=85_742, help="(default: 85742)")
    parser.add_argument("--images-each", type=int, default=68, help="(default: 68)")
    parser.add_argument("--reads", type=int, default=2_000_000, help="in all (default: 2000000)")
    parser.add_argument("--directory", type=Path, help="where the datasets are, or are made and stay")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, *arguments = options.measure
        globals()[f"measure_{name}"](*arguments)
        return
    directory = options.directory or Path(tempfile.mkdtemp(prefix="data_scale_"))
    try:
        make(directory, options.people, options.images_each)
        images = options.people * options.images_each
        print(f"{os.cpu_count()} cores, {images:,} images of {options.people:,} people", flush=True)
        (directory / "record" / "train.rec.cache").unlink(missing_ok=True)
        (directory / "no_index" / "train.rec.cache").unlink(missing_ok=True)
        kept = {}
        for name, *measure in (
            ("label.txt, opening", "opening", directory / "flat"),
            ("folders, opening", "opening", directory / "people"),
            ("train.rec, opening", "opening", directory / "record"),
            ("  without index, first time", "opening", directory / "no_index"),
            ("  without index, from then on", "opening", directory / "no_index"),
            ("list, looking for its files", "scanning", directory / "people.txt"),
            ("list, reading", "reading", directory / "people.txt", options.reads),
            ("folders, reading", "reading", directory / "people", options.reads),
            ("train.rec, reading", "reading", directory / "record", options.reads),
            ("  by memory map", "mapped", directory / "record", options.reads),
        ):
            print(f"{name:30}", end=" ", flush=True)
            command = [sys.executable, __file__, "--measure", *map(str, measure)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(printed, end="", flush=True)
            if found := re.search(r"kept ([\d.]+) bytes", printed):
                kept[name] = float(found[1])
        for data_set, count in LARGER.items():  # a list of 4 GiB and more takes 4 bytes a line more
            sizes = {name: (size + 4 * (name.startswith("label") and count > 2e8)) * count for name, size in kept.items()}
            print(f"{data_set}, reckoned: " + "; ".join(f"{name.strip()} {size / 1e6:,.0f} MB" for name, size in sizes.items()))
    finally:
        if not options.directory:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
