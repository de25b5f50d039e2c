"""How fast training images reach the trainer, beside a bare loop of the JPEG decoder and the 2021 toolkit's pipeline.

    python benchmarks/loader_speed.py [--data_dir MS1M_v2] [--rounds 7]

The images are drawn faces, or those of a label.txt data set, their bytes in memory: what a disk takes is not measured. The
pipelines take turns, and of each the fastest round counts, so that other work on the machine falsifies as little as can be;
the load average is printed. The 2021 toolkit's decodes, mirrors, normalises to float32 and transposes each image in
NumPy; ours leaves normalising to the device, after the batch has arrived as uint8.

"images / s" is by the clock. "images / s of a core" is by the processor time of the process that decodes, which other
processes hardly disturb.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "datasets")]

from arcface.runtime.tuning import start_paddle  # noqa: E402

start_paddle()

import paddle  # noqa: E402
from drawn_faces import draw_person  # noqa: E402

from arcface.data.label_file import LabelFile  # noqa: E402
from arcface.data.loader import Batches, load  # noqa: E402
from arcface.images import decode_any_size  # noqa: E402

BATCH_SIZE, STEPS, IMAGES = 256, 12, 4096
QUALITY = 95  # of the JPEGs; makes drawn faces about as large as photos


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


class Of2021(paddle.io.Dataset):
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


def read_images(data_dir: str | None) -> list[bytes]:
    if data_dir is None:
        jobs = [(0, 0, person, 16) for person in range(IMAGES // 16)]
        with multiprocessing.Pool() as pool:
            drawn = [jpeg for jpegs in pool.imap(draw_person, jobs) for jpeg in jpegs]
        return [cv2.imencode(".jpg", decode_any_size(jpeg, ""), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes() for jpeg in drawn]
    source = LabelFile(data_dir)
    chosen = np.random.default_rng(0).permutation(len(source))[:IMAGES]
    return [source.encoded(index) for index in chosen]


def bare_decoder(encoded: list[bytes]) -> Iterator[int]:
    for number, content in enumerate(encoded):
        cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if number % BATCH_SIZE == BATCH_SIZE - 1:
            yield BATCH_SIZE


def loop_of_2021(encoded: list[bytes]) -> Iterator[int]:
    pipeline = Of2021(encoded)
    for first in range(0, len(encoded), BATCH_SIZE):
        np.stack([pipeline[index][0] for index in range(first, min(first + BATCH_SIZE, len(encoded)))])
        yield BATCH_SIZE


def loader_of_2021(encoded: list[bytes], workers: int) -> Iterator[int]:
    loader = paddle.io.DataLoader(Of2021(encoded * 2), batch_size=BATCH_SIZE, shuffle=True, num_workers=workers,
                                  places=paddle.CPUPlace())  # fmt: skip
    for images, _ in loader:
        yield len(images)


def ours(encoded: list[bytes], workers: int) -> Iterator[int]:
    batches = Batches(InMemory(encoded), BATCH_SIZE, 0, 0, 1)
    for images, _ in load(batches, 0, 10**6, workers):
        yield len(images)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, also of another one: the clock that clock_getcpuclockid(3) names on Linux."""
    return time.clock_gettime(~pid << 3 | 2)


def measure(batches: Iterator[int]) -> tuple[float, float]:
    """Return images/s by the clock, and per second of the processes that decode; of batches in the middle of the stream."""
    for _ in range(6):  # start of the workers, and what they have made meanwhile
        next(batches)
    decoding = [process.pid for process in multiprocessing.active_children()] or [os.getpid()]
    cpu, clock = sum(map(cpu_seconds, decoding)), time.perf_counter()
    images = sum(next(batches) for _ in range(STEPS))
    clock, cpu = time.perf_counter() - clock, sum(map(cpu_seconds, decoding)) - cpu
    for process in multiprocessing.active_children():  # Paddle's would end some time later
        process.kill()
        process.join()
    batches.close()
    return images / clock, images / cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="directory with label.txt and images (default: drawn faces)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    encoded = read_images(options.data_dir)
    pipelines: dict[str, Callable[[], Iterator[int]]] = {
        "cv2.imdecode in a loop": lambda: bare_decoder(encoded * 2),
        "ours, no worker": lambda: ours(encoded, 0),
        "ours, 1 worker": lambda: ours(encoded, 1),
        "ours, 2 workers": lambda: ours(encoded, 2),
        "2021 pipeline in a loop": lambda: loop_of_2021(encoded * 2),
        "2021 pipeline, DataLoader, 1 worker": lambda: loader_of_2021(encoded * 2, 1),
    }
    best = {name: (0.0, 0.0) for name in pipelines}
    for _ in range(options.rounds):
        for name, start in pipelines.items():
            best[name] = tuple(map(max, best[name], measure(start())))
    print(f"{len(encoded)} JPEGs of {np.mean(list(map(len, encoded))):.0f} bytes, batch {BATCH_SIZE}, {os.cpu_count()} cores,"
          f" OpenCV {cv2.__version__}; best of {options.rounds}, load average {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"{'':38}{'images / s':>12}{'images / s of a core':>24}")
    for name, (rate, of_core) in best.items():
        print(f"{name:38}{rate:12.0f}{of_core:24.0f}")
    ratios = [("1 worker / loop of the decoder", "ours, 1 worker", "cv2.imdecode in a loop"),
              ("2 workers / 1 worker", "ours, 2 workers", "ours, 1 worker"),
              ("1 worker / 2021 pipeline in a loop", "ours, 1 worker", "2021 pipeline in a loop"),
              ("1 worker / 2021 pipeline, DataLoader", "ours, 1 worker", "2021 pipeline, DataLoader, 1 worker")]  # fmt: skip
    for name, one, other in ratios:
        print(f"{name:38}{best[one][0] / best[other][0]:12.2f}{best[one][1] / best[other][1]:24.2f}")


if __name__ == "__main__":
    main()
