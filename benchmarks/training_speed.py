"""How much the process settings and one process per core gain on a CPU: images/s of training steps, in one run.

    python benchmarks/training_speed.py [--steps 6]

Each setting trains MobileFaceNet_128 with a head of 1,000 classes at a global batch of 64 on random images, in
processes of its own; the first two steps are not counted. Prints a table with the ratio to Paddle as it comes.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SETTINGS = {"Paddle as it comes": (1, False), "tuned, 1 process": (1, True), "tuned, 2 processes": (2, True)}
BATCH_SIZE, CLASSES, WARM_UP = 64, 1000, 2


def measure(tuned: bool, steps: int) -> None:
    """Train as one rank of those that were launched; rank 0 prints the median images/s of all ranks together."""
    sys.path.insert(0, str(REPOSITORY))
    if tuned:
        from arcface.runtime.tuning import start_paddle

        start_paddle()
    import paddle

    from arcface.config import TrainConfig
    from arcface.runtime.distributed import rank, start_ranks, world_size
    from arcface.training.model import Model

    paddle.set_device("cpu")
    start_ranks()
    model = Model(TrainConfig(batch_size=BATCH_SIZE), CLASSES)
    images = paddle.randint(0, 256, [BATCH_SIZE // world_size(), 3, 112, 112]).astype("uint8")
    labels = paddle.randint(0, CLASSES, [BATCH_SIZE // world_size()], dtype="int64")
    seconds = []
    for step in range(WARM_UP + steps):
        began = time.perf_counter()
        loss = model.compute_gradients(images, labels, step)
        model.update(0.01)
        loss.item()
        seconds.append(time.perf_counter() - began)
    if rank() == 0:
        print("RESULT", BATCH_SIZE / statistics.median(seconds[WARM_UP:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="steps that count (default: 6)")
    parser.add_argument("--measure", choices=["tuned", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure == "tuned", options.steps)
        return
    results = {}
    for name, (ranks, tuned) in SETTINGS.items():
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", tempfile.mkdtemp()]
        command = [sys.executable, *(launch if ranks > 1 else []), __file__, "--steps", str(options.steps),
                   "--measure", "tuned" if tuned else "plain"]  # fmt: skip
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        results[name] = float(printed.split("RESULT")[1].split()[0])
    first = next(iter(results.values()))
    print(f"{os.cpu_count()} cores, batch {BATCH_SIZE}, median of {options.steps} steps")
    for name, speed in results.items():
        print(f"{name:20} {speed:6.1f} images/s   {speed / first:.2f}x")


if __name__ == "__main__":
    main()
