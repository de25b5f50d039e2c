"""What the process settings, the CPU kernels and one process per core gain on a CPU: images/s of training steps, in one run.

    python benchmarks/training_speed.py [--steps 7] [--torch DIRECTORY]

Each setting trains MobileFaceNet_128 with a head of 1,000 classes at a global batch of 64 on random images, in processes of
its own that are started in turn, `--rounds` times; the first two steps of each are not counted. Where PyTorch is installed
(or in the directory of --torch), the same network written for it is measured as it comes, and with channels_last and an
allocator that keeps memory. Prints the median images/s and its ratio to Paddle as it comes.
"""

import argparse
import ctypes
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
# name: ranks, kind
SETTINGS = {
    "Paddle as it comes": (1, "plain"),
    "tuned": (1, "tuned"),
    "tuned, CPU kernels": (1, "kernels"),
    "tuned, CPU kernels, 2 processes": (2, "kernels"),
}
TORCH_SETTINGS = {
    "PyTorch as it comes": (1, "torch"),
    "PyTorch, channels_last, memory kept": (1, "torch-best"),
}
NETWORK, EMBEDDING_SIZE, BATCH_SIZE, CLASSES, WARM_UP = "MobileFaceNet_128", 128, 64, 1000, 2


def measure(kind: str, steps: int) -> None:
    """Train as one rank of those that were launched; rank 0 prints the seconds of each step that counts."""
    create = partial(torch_step, best=kind == "torch-best") if kind.startswith("torch") else partial(paddle_step, kind=kind)
    step, reports = create(NETWORK, EMBEDDING_SIZE, BATCH_SIZE)
    seconds = []
    for number in range(WARM_UP + steps):
        began = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - began)
    if reports:
        print("RESULT", *seconds[WARM_UP:])


def paddle_step(network: str, embedding_size: int, batch_size: int, kind: str) -> tuple[Callable[[int], None], bool]:
    """Return what takes a step, by its number, as train.py does, and whether this rank reports."""
    sys.path.insert(0, str(REPOSITORY))
    if kind != "plain":
        from arcface.system.startup import start_paddle

        start_paddle()
    import numpy as np
    import paddle

    from arcface.config import TrainConfig
    from arcface.distributed.process_group import rank, start_ranks, world_size
    from arcface.training.data import Batch
    from arcface.training.model import Model

    paddle.set_device("cpu")
    start_ranks()
    cpu_kernels = "auto" if kind == "kernels" else "off"
    config = TrainConfig(network=network, embedding_size=embedding_size, cpu_kernels=cpu_kernels)
    model = Model(config, config, config, CLASSES)
    model.use_cpu_kernels()
    images = paddle.randint(0, 256, [batch_size // world_size(), 3, 112, 112]).astype("uint8")
    listed = np.random.default_rng(0).integers(0, CLASSES, batch_size)
    labels = paddle.to_tensor(np.array_split(listed, world_size())[rank()])
    batch = Batch(images, labels, listed)

    def step(number: int) -> None:
        computed = model.backward(model.forward(batch, number))
        model.update(computed, 0.01)
        computed.loss.item()

    return step, rank() == 0


def torch_step(name: str, embedding_size: int, batch_size: int, best: bool = False) -> tuple[Callable[[int], None], bool]:
    """The same for PyTorch: network, ArcFace head and momentum SGD."""
    if best:
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 2**31 - 1)
    sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
    import torch
    from torch import nn
    from torch_nets import create_net

    network = create_net(name, embedding_size)
    centres = nn.Parameter(0.01 * torch.randn(CLASSES, embedding_size))
    optimizer = torch.optim.SGD([*network.parameters(), centres], lr=0.01, momentum=0.9, weight_decay=2e-4)
    images = torch.randint(0, 256, (batch_size, 3, 112, 112), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch_size,))
    if best:
        network, images = network.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    network.train()

    def step(number: int) -> None:
        embeddings = network((images.float() - 127.5) / 127.5)
        cosines = nn.functional.normalize(embeddings) @ nn.functional.normalize(centres).T
        with_margin = torch.cos(torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6)) + 0.5 * nn.functional.one_hot(labels, CLASSES))
        loss = nn.functional.cross_entropy(64 * with_margin, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step, True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="steps that count, of each process (default: 7)")
    parser.add_argument("--rounds", type=int, default=1, help="how often all settings are measured in turn (default: 1)")
    parser.add_argument("--torch", help="directory that PyTorch was installed to (pip install --target)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch:
        sys.path.append(options.torch)
    if options.measure:
        measure(options.measure, options.steps)
        return
    settings = dict(SETTINGS)
    if importlib.util.find_spec("torch"):
        settings |= TORCH_SETTINGS
    else:
        print("PyTorch is not installed: its rows are left out (pip install torch, or --torch DIRECTORY)")
    seconds = {name: [] for name in settings}
    with tempfile.TemporaryDirectory() as logs:
        for _ in range(options.rounds):
            for name, (ranks, kind) in settings.items():
                launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", logs]
                command = [
                    sys.executable,
                    *(launch if ranks > 1 else []),
                    __file__,
                    "--steps",
                    str(options.steps),
                    "--measure",
                    kind,
                    *(["--torch", options.torch] if options.torch else []),
                ]
                environment = {
                    **os.environ,
                    "CUDA_VISIBLE_DEVICES": ",".join(["-1"] * ranks),
                }  # the launcher wants one for each rank
                printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                seconds[name] += map(float, printed.split("RESULT")[1].splitlines()[0].split())
    print(f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; paddlepaddle {version('paddlepaddle')}")
    print(f"batch {BATCH_SIZE}, median of {options.rounds * options.steps} steps")
    speeds = {name: BATCH_SIZE / statistics.median(times) for name, times in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name:36} {speed:6.1f} images/s   {speed / speeds['Paddle as it comes']:.2f}x")


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
