"""How fast the steps could be on this machine: operations and bytes that they cannot do without, and the time these take.

    python benchmarks/roofline.py

Measures what the machine gives (a product of matrices, a copy of memory; all threads), counts, and prints the larger of the
two times as the floor. Compare what training_speed.py, head_speed.py and one_image.py measure on the same idle machine.

Counted is float32: 2 operations for each multiply-add of convolutions and of the head's products; a backward pass has
twice the forward's. Bytes are those of arrays too large for the caches: of the network, each convolution's output is
written and read in the forward pass, and read twice in the backward pass, which writes and reads its gradient; of the head,
the centres are read for the logits, and read and written with their momentum by the update, and of the logits what is kept is
written and read. One image's activations stay in the caches: the weights are read.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arcface.system.startup import start_paddle, threads  # noqa: E402

start_paddle()

import head_speed  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402
import training_speed  # noqa: E402

from arcface.backbones import create_backbone  # noqa: E402
from arcface.backbones.counts import count  # noqa: E402

NETWORK, EMBEDDING_SIZE = "MobileFaceNet_128", head_speed.SIZE
FLOAT = 4  # bytes


def best_seconds(work, rounds: int = 7) -> float:
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def operations_a_second(size: int = 2048) -> float:
    a, b = paddle.randn([size, size]), paddle.randn([size, size])
    return 2 * size**3 / best_seconds(lambda: paddle.matmul(a, b))


def bytes_a_second(count: int = 2**26) -> float:
    """Of a copy, read and written, by all threads at once."""
    source, target = np.ones((threads(), count // threads()), np.float32), np.zeros((threads(), count // threads()), np.float32)
    with ThreadPoolExecutor(threads()) as pool:
        seconds = best_seconds(lambda: list(pool.map(np.copyto, target, source)))
    return 2 * source.nbytes / seconds


def main():
    paddle.set_device("cpu")
    speed, bandwidth = operations_a_second(), bytes_a_second()
    print(
        f"{os.cpu_count()} cores, {threads()} threads, load {os.getloadavg()[0]:.1f}, paddlepaddle {paddle.__version__}:"
        f" {speed / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s"
    )
    weights, multiply_adds, outputs = count(create_backbone(NETWORK, EMBEDDING_SIZE))
    print(
        f"{NETWORK}: {multiply_adds / 1e6:.0f} million multiply-adds, {outputs / 1e6:.2f} million outputs an image,"
        f" {weights / 1e6:.2f} million weights"
    )

    def head(batch, classes):
        return 3 * 2 * batch * classes * EMBEDDING_SIZE, FLOAT * (5 * EMBEDDING_SIZE + 2 * batch) * classes

    images, classes = training_speed.BATCH_SIZE, training_speed.CLASSES
    operations, transferred = head(images, classes)
    rows = {
        f"training step, batch {images}, {classes:,} classes": (
            operations + 3 * 2 * multiply_adds * images,
            transferred + 6 * FLOAT * outputs * images,
        ),
        f"head step, batch {head_speed.BATCH_SIZE}, {head_speed.CLASSES:,} classes": head(
            head_speed.BATCH_SIZE, head_speed.CLASSES
        ),
        "one image": (2 * multiply_adds, FLOAT * weights),
    }
    print(f"{'':42}{'GFLOP':>8}{'MB':>8}{'compute':>11}{'memory':>11}{'floor':>11}")
    for name, (operations, transferred) in rows.items():
        compute, memory = operations / speed * 1000, transferred / bandwidth * 1000
        print(
            f"{name:42}{operations / 1e9:8.2f}{transferred / 1e6:8.0f}{compute:8.1f} ms{memory:8.1f} ms"
            f"{max(compute, memory):8.1f} ms"
        )


if __name__ == "__main__":
    main()
