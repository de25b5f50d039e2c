"""How fast training images reach the trainer, beside bare loops of JPEG decoders and the 2021 toolkit's pipeline.

    python benchmarks/loader_speed.py [--data_dir MS1M_v2] [--rounds 7]

The images are drawn faces, or those of a dataset in any layout. Ours reads them from a .rec file, which is in the system's
cache, so that what a disk takes is not measured; the others have their bytes in memory. The pipelines take turns: of each
the fastest round is printed, and of two the median of the rounds' ratios, so that other work on the machine falsifies as
little as can be; the load average is printed.

The 2021 toolkit's decodes, mirrors, normalises to float32 and transposes each image in NumPy, in a process that is set up as
it was, without arcface/system/startup.py; ours leaves normalising to the device, after the batch has arrived as uint8.

"images / s" is by the clock. "images / s of a core" is by the processor time of the processes that decode, which other work
disturbs less.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from arcface.data.datasets.base import open_dataset  # noqa: E402
from arcface.data.drawn_faces import draw_identity  # noqa: E402
from arcface.data.selection import whole  # noqa: E402
from arcface.data.writers import write  # noqa: E402

BATCH_SIZE, IMAGES = 256, 4096
STEPS = 96  # that are measured: many beside the few batches that may be ready when they begin
QUALITY = 95  # of the JPEGs; makes drawn faces nearly as large as photos
RATIOS = [
    ("1 worker / cv2.imdecode in a loop", "ours, 1 worker", "cv2.imdecode in a loop"),
    ("1 worker / simplejpeg in a loop", "ours, 1 worker", "simplejpeg in a loop"),
    ("the same with OpenCV only / cv2.imdecode", "ours, 1 worker, OpenCV only", "cv2.imdecode in a loop"),
    ("2 workers / 1 worker", "ours, 2 workers", "ours, 1 worker"),
    ("1 worker / 2021 pipeline in a loop", "ours, 1 worker", "2021 pipeline in a loop"),
    ("1 worker / 2021 pipeline, 1 worker", "ours, 1 worker", "2021 pipeline, 1 worker"),
]


class Of2021:
    """What the 2021 toolkit did to an image, written down from its description."""

    def __init__(self, encoded: list[bytes]):
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = cv2.cvtColor(cv2.imdecode(np.frombuffer(self._encoded[index], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        if random.random() < 0.5:
            image = cv2.flip(image, 1)
        image = (image / 255 - 0.5) / 0.5
        return image.transpose(2, 0, 1).astype(np.float32), np.int64(0)


def shuffled(encoded: list[bytes]) -> Iterator[list[bytes]]:
    """Yield batches in an order as random as a training's, so that the memory is read alike."""
    while True:
        order = np.random.default_rng(0).permutation(len(encoded)).tolist()
        for first in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            yield [encoded[index] for index in order[first : first + BATCH_SIZE]]


def loop_of_opencv(encoded: list[bytes]) -> Iterator[int]:
    for batch in shuffled(encoded):
        for content in batch:
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        yield BATCH_SIZE


def loop_of_simplejpeg(encoded: list[bytes]) -> Iterator[int]:
    for batch in shuffled(encoded):
        for content in batch:
            simplejpeg.decode_jpeg(content)
        yield BATCH_SIZE


def ours(file: Path, workers: int, decoder: Callable | None = simplejpeg.decode_jpeg) -> Iterator[int]:
    from arcface.data.loader import Loader
    from arcface.io import images

    images.decode_jpeg = decoder
    loader = Loader(open_dataset(file), BATCH_SIZE, 0, 0, 1)
    with loader.workers(workers) as processes:
        for batch, *_ in loader.batches(0, 10**6, processes, images.batch_channels_first):
            yield len(batch)


def loop_of_2021(encoded: list[bytes]) -> Iterator[int]:
    for batch in shuffled(encoded):
        np.stack([image for image, _ in Of2021(batch)])
        yield BATCH_SIZE


def loader_of_2021(encoded: list[bytes]) -> Iterator[int]:
    import paddle

    for images, _ in paddle.io.DataLoader(
        Of2021(encoded * 7), batch_size=BATCH_SIZE, shuffle=True, num_workers=1, places=paddle.CPUPlace()
    ):
        yield len(images)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, also of another one: the clock that clock_getcpuclockid(3) names on Linux."""
    return time.clock_gettime(~pid << 3 | 2)


def measure(batches: Iterator[int]) -> tuple[float, float]:
    """Return images/s by the clock, and per second of the processes that decode; of batches in the middle of the stream."""
    others = set(multiprocessing.active_children())
    for _ in range(6):  # start of the workers, and what they have made meanwhile
        next(batches)
    workers = set(multiprocessing.active_children()) - others
    decoding = [worker.pid for worker in workers] or [os.getpid()]
    cpu, clock = sum(map(cpu_seconds, decoding)), time.perf_counter()
    images = sum(next(batches) for _ in range(STEPS))
    clock, cpu = time.perf_counter() - clock, sum(map(cpu_seconds, decoding)) - cpu
    for worker in workers:  # Paddle's would end some time later
        worker.kill()
        worker.join()
    batches.close()
    return images / clock, images / cpu


def serve_2021(encoded: list[bytes], connection: Connection) -> None:
    pipelines = {"loop": loop_of_2021, "loader": loader_of_2021}
    cv2.setNumThreads(0)
    while True:
        connection.send(measure(pipelines[connection.recv()](encoded)))


def read_images(data_dir: str | None) -> list[bytes]:
    if data_dir is None:
        jobs = [(0, 0, identity, 16) for identity in range(IMAGES // 16)]
        with multiprocessing.Pool() as pool:
            drawn = [jpeg for jpegs in pool.imap(draw_identity, jobs) for jpeg in jpegs]
        images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in drawn]
        return [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes() for image in images]
    source = open_dataset(data_dir)
    return [source.encoded(index) for index in np.random.default_rng(0).permutation(len(source))[:IMAGES].tolist()]


def write_record_file(directory: Path, encoded: list[bytes]) -> Path:
    """Write the images as a .rec file of two identities."""
    for number, content in enumerate(encoded):
        identity = directory / "images" / str(2 * number // len(encoded))
        identity.mkdir(parents=True, exist_ok=True)
        (identity / f"{number:08d}.jpg").write_bytes(content)
    write(whole(open_dataset(directory / "images")), directory / "train.rec", "rec", 1)
    return directory / "train.rec"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="dataset in any layout (default: drawn faces)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    options = parser.parse_args()
    encoded = read_images(options.data_dir)

    context = multiprocessing.get_context("fork")  # before this process is tuned
    to_2021, there = context.Pipe()
    of_2021 = context.Process(target=serve_2021, args=(encoded, there))
    of_2021.start()

    from arcface.system.startup import start_paddle

    start_paddle()
    cv2.setNumThreads(0)

    def ask_2021(which: str) -> tuple[float, float]:
        to_2021.send(which)
        return to_2021.recv()

    rates = {}
    with tempfile.TemporaryDirectory() as directory:
        file = write_record_file(Path(directory), encoded)
        pipelines: dict[str, Callable[[], tuple[float, float]]] = {
            "cv2.imdecode in a loop": lambda: measure(loop_of_opencv(encoded)),
            "simplejpeg in a loop": lambda: measure(loop_of_simplejpeg(encoded)),
            "ours, 1 worker": lambda: measure(ours(file, 1)),
            "ours, 1 worker, OpenCV only": lambda: measure(ours(file, 1, decoder=None)),
            "ours, 2 workers": lambda: measure(ours(file, 2)),
            "2021 pipeline in a loop": lambda: ask_2021("loop"),
            "2021 pipeline, 1 worker": lambda: ask_2021("loader"),
        }
        for _ in range(options.rounds):
            for name, run in pipelines.items():
                rates.setdefault(name, []).append(run())
    of_2021.kill()
    rates = {name: np.array(measured) for name, measured in rates.items()}
    print(
        f"{len(encoded)} JPEGs of {np.mean(list(map(len, encoded))):.0f} bytes, batch {BATCH_SIZE}, {os.cpu_count()} cores;"
        f" {options.rounds} rounds, load average {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':42}{'images / s':>12}{'images / s of a core':>24}")
    for name, measured in rates.items():
        print("{:42}{:12.0f}{:24.0f}".format(name, *measured.max(axis=0)))
    for name, one, other in RATIOS:
        print("{:42}{:12.2f}{:24.2f}".format(name, *np.median(rates[one] / rates[other], axis=0)))


if __name__ == "__main__":
    main()
