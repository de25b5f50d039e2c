"""How fast training images reach the trainer, beside a bare loop of the JPEG decoder and the 2021 toolkit's pipeline.

    python benchmarks/loader_speed.py [--data_dir MS1M_v2] [--rounds 7]

The images are drawn faces, or those of a label.txt data set, their bytes in memory: what a disk takes is not measured. The
pipelines take turns, and of each the fastest round counts, so that other work on the machine falsifies as little as can be;
the load average is printed. The 2021 toolkit's decodes, mirrors, normalises to float32 and transposes each image in
NumPy, in a process that is set up as it was, without arcface/runtime/tuning.py; ours leaves normalising to the device, after
the batch has arrived as uint8.

"images / s" is by the clock. "images / s of a core" is by the processor time of the processes that decode, which other work
disturbs less.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "datasets")]

BATCH_SIZE, IMAGES = 128, 4096
STEPS = 96  # that are measured: many beside the few batches that may be ready when they begin
QUALITY = 95  # of the JPEGs; makes drawn faces nearly as large as photos
RATIOS = [
    ("1 worker / loop of the decoder", "ours, 1 worker", "cv2.imdecode in a loop"),
    ("2 workers / 1 worker", "ours, 2 workers", "ours, 1 worker"),
    ("1 worker / 2021 pipeline in a loop", "ours, 1 worker", "2021 pipeline in a loop"),
    ("1 worker / 2021 pipeline, 1 worker", "ours, 1 worker", "2021 pipeline, 1 worker"),
]


class InMemory:
    """A source of images that are in memory already."""

    def __init__(self, encoded: list[bytes]):
        self._encoded, self.labels, self.num_classes = encoded, np.zeros(len(encoded), np.int64), 1

    def __len__(self) -> int:
        return len(self._encoded)

    def encoded(self, index: int) -> bytes:
        return self._encoded[index]

    def name(self, index: int) -> str:
        return f"image {index}"


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


def bare_decoder(encoded: list[bytes]) -> Iterator[int]:
    for batch in shuffled(encoded):
        for content in batch:
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        yield BATCH_SIZE


def ours(encoded: list[bytes], workers: int) -> Iterator[int]:
    from arcface.data.loader import Batches, load

    batches = Batches(InMemory(encoded), BATCH_SIZE, 0, 0, 1)
    for images, _ in load(batches, 0, 10**6, workers):
        yield len(images)


def loop_of_2021(encoded: list[bytes]) -> Iterator[int]:
    for batch in shuffled(encoded):
        np.stack([image for image, _ in Of2021(batch)])
        yield BATCH_SIZE


def loader_of_2021(encoded: list[bytes]) -> Iterator[int]:
    import paddle

    for images, _ in paddle.io.DataLoader(Of2021(encoded * 4), batch_size=BATCH_SIZE, shuffle=True, num_workers=1,
                                          places=paddle.CPUPlace()):  # fmt: skip
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
    from drawn_faces import draw_person

    from arcface.data.label_file import LabelFile

    if data_dir is None:
        jobs = [(0, 0, person, 16) for person in range(IMAGES // 16)]
        with multiprocessing.Pool() as pool:
            drawn = [jpeg for jpegs in pool.imap(draw_person, jobs) for jpeg in jpegs]
        images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in drawn]
        return [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes() for image in images]
    source = LabelFile(data_dir)
    return [source.encoded(index) for index in source.spread(IMAGES)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="directory with label.txt and images (default: drawn faces)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    options = parser.parse_args()
    encoded = read_images(options.data_dir)

    context = multiprocessing.get_context("fork")  # before this process is tuned
    to_2021, there = context.Pipe()
    of_2021 = context.Process(target=serve_2021, args=(encoded, there))
    of_2021.start()

    from arcface.runtime.tuning import start_paddle

    start_paddle()
    cv2.setNumThreads(0)

    def ask_2021(which: str) -> tuple[float, float]:
        to_2021.send(which)
        return to_2021.recv()

    pipelines: dict[str, Callable[[], tuple[float, float]]] = {
        "cv2.imdecode in a loop": lambda: measure(bare_decoder(encoded)),
        "ours, no worker": lambda: measure(ours(encoded, 0)),
        "ours, 1 worker": lambda: measure(ours(encoded, 1)),
        "ours, 2 workers": lambda: measure(ours(encoded, 2)),
        "2021 pipeline in a loop": lambda: ask_2021("loop"),
        "2021 pipeline, 1 worker": lambda: ask_2021("loader"),
    }
    best = dict.fromkeys(pipelines, (0.0, 0.0))
    for _ in range(options.rounds):
        for name, run in pipelines.items():
            best[name] = tuple(map(max, best[name], run()))
    of_2021.kill()
    print(f"{len(encoded)} JPEGs of {np.mean(list(map(len, encoded))):.0f} bytes, batch {BATCH_SIZE}, {os.cpu_count()} cores,"
          f" OpenCV {cv2.__version__}; best of {options.rounds}, load average {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"{'':38}{'images / s':>12}{'images / s of a core':>24}")
    for name, (rate, rate_of_core) in best.items():
        print(f"{name:38}{rate:12.0f}{rate_of_core:24.0f}")
    for name, one, other in RATIOS:
        print(f"{name:38}{best[one][0] / best[other][0]:12.2f}{best[one][1] / best[other][1]:24.2f}")


if __name__ == "__main__":
    main()
