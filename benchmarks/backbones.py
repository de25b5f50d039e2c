"""Every backbone on a CPU: parameters, multiply-adds, and images/s of training and of each engine, beside PyTorch's same net.

    python benchmarks/backbones.py --torch_python PYTHON [--networks mbf vit_t] [--csv backbones.csv]

PYTHON is that of an environment with PyTorch and numpy; without it, PyTorch's columns are left out. Training is a step of this
toolkit's Model with a head of 1,000 classes: forward and backward pass and update. "off" is the same with --cpu_kernels off, for
networks with layers that the kernels serve. PyTorch trains and embeds with the same net, its head written as one would; all as it
comes. Embeddings have 512 values, those of MobileFaceNet_128 128; images are random.

What is compared takes turns of half a second or of one call, in processes that run beside each other, with a pause before each
turn: threads of one go on spinning for a while and would slow the next. Prints a Markdown table of the median images/s and, in
brackets, their ratio to PyTorch's. All networks take 8 minutes on two cores with --rounds 2.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import training_speed

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "helpers")]
ENVIRONMENT = dict(os.environ)  # before Paddle's settings are made: a worker starts from what the user has set

TURN, PAUSE = 0.5, 0.3  # seconds
EMBEDDING_SIZES = {"MobileFaceNet_128": 128}  # of all others: 512
PYTORCH = "PyTorch"
ANSWER = "ANSWER "  # begins the lines of a worker that are meant for the parent

Works = dict[str, Callable[[], Any]]  # of each column, what trains or embeds one batch


class Facts(NamedTuple):
    """What a worker tells of its network and of itself; PyTorch's leaves the counting to Paddle's."""

    columns: list[str]
    version: str
    threads: int
    parameters: int = 0
    multiply_adds: int = 0


# ---- workers: a process of Paddle or of PyTorch, for one phase of one network


def with_paddle(phase: str, network: str, batch_size: int, opened: ExitStack) -> tuple[Facts, Works]:
    from arcface.system.startup import start_paddle, threads

    start_paddle()
    import numpy as np
    import paddle

    from arcface.backbones import create_backbone
    from arcface.backbones.counts import count
    from arcface.backbones.layers import FusedConvolutions
    from arcface.inference.engines import candidates, open_engine

    paddle.set_device("cpu")
    size = EMBEDDING_SIZES.get(network, 512)
    backbone = create_backbone(network, size)
    works: Works = {}
    if phase == "training":
        served = any(isinstance(layer, FusedConvolutions) for layer in backbone.sublayers())
        for column, kind in (("ours", "kernels"), *([("off", "tuned")] if served else [])):
            step, _ = training_speed.paddle_step(network, size, batch_size, kind)
            works[column] = partial(step, 0)
    else:
        images = np.random.default_rng(0).integers(0, 256, (batch_size, 3, 112, 112), np.uint8)
        for engine in candidates("auto"):
            works[engine] = partial(opened.enter_context(open_engine(engine, backbone, network, size)), images)
    counts = count(backbone)
    facts = Facts([*works], f"paddlepaddle {paddle.__version__}", threads(), counts.parameters, counts.multiply_adds)
    return facts, works


def with_pytorch(phase: str, network: str, batch_size: int, opened: ExitStack) -> tuple[Facts, Works]:
    import torch
    from torch_nets import create_net

    size = EMBEDDING_SIZES.get(network, 512)
    facts = Facts([PYTORCH], f"PyTorch {torch.__version__}", torch.get_num_threads())
    if phase == "training":
        step, _ = training_speed.torch_step(network, size, batch_size)
        return facts, {PYTORCH: partial(step, 0)}
    net, images = create_net(network, size), torch.randint(0, 256, (batch_size, 3, 112, 112), dtype=torch.uint8)

    @torch.inference_mode()
    def embed() -> torch.Tensor:
        return net((images.float() - 127.5) / 127.5)

    return facts, {PYTORCH: embed}


FRAMEWORKS = {"paddle": with_paddle, "pytorch": with_pytorch}


def work(framework: str, phase: str, network: str, batch_size: str) -> None:
    """Say what can be measured, then take a turn of the column that a line of stdin names and answer with the calls' seconds."""
    with ExitStack() as opened:
        facts, works = FRAMEWORKS[framework](phase, network, int(batch_size), opened)
        print(ANSWER + json.dumps(facts), flush=True)
        for line in sys.stdin:
            seconds: list[float] = []
            while sum(seconds) < TURN:
                began = time.perf_counter()
                works[line.strip()]()
                seconds.append(time.perf_counter() - began)
            print(ANSWER + json.dumps(seconds), flush=True)


class Worker:
    """A worker as its parent sees it."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def answer(self) -> Any:
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise SystemExit(f"{' '.join(self._process.args[-4:])}: ended with exit code {self._process.wait()}; its message is above")

    def turn(self, column: str) -> list[float]:
        """Return the seconds of each call of a turn."""
        time.sleep(PAUSE)
        print(column, file=self._process.stdin, flush=True)
        return self.answer()


@contextmanager
def start_worker(python: str, *how: str, threads: int | None):
    """Run a worker; what it says on stderr is shown if it fails."""
    environment = ENVIRONMENT | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [python, __file__, "--work", *how]
    with tempfile.TemporaryFile("w+") as said:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
        process = subprocess.Popen(command, **pipes, text=True, env=environment)
        try:
            yield Worker(process)
        finally:
            if process.poll():
                said.seek(0)
                sys.stderr.write(said.read())
            process.kill()
            process.wait()


# ---- the parent


def measure(network: str, phase: str, options: argparse.Namespace) -> tuple[list[Facts], dict[str, float]]:
    """Return what the workers tell, Paddle's first, and the images/s of each column."""
    pythons = {"paddle": sys.executable, "pytorch": options.torch_python}
    seconds: dict[str, list[float]] = {}
    with ExitStack() as running:
        workers = [
            running.enter_context(start_worker(python, name, phase, network, str(options.batch_size), threads=options.threads))
            for name, python in pythons.items()
            if python
        ]
        facts = [Facts(*worker.answer()) for worker in workers]
        for _ in range(options.rounds):
            for worker, own in zip(workers, facts, strict=True):
                for column in own.columns:
                    seconds.setdefault(column, []).extend(worker.turn(column))
    # The first call warms up.
    return facts, {column: options.batch_size / statistics.median(taken[1:]) for column, taken in seconds.items()}


def cell(speed: float | None, ratio: float | None) -> str:
    if speed is None:
        return "-"
    return f"{speed:.1f}" + (f" ({ratio:.2f})" if ratio else "")


def table_row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    from tqdm import tqdm

    from arcface.system.startup import start_paddle

    start_paddle()
    from arcface.backbones import BACKBONES
    from arcface.inference.engines import candidates

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[*BACKBONES], choices=BACKBONES, metavar="NAME", help="(default: all)")
    parser.add_argument("--batch_size", type=int, default=8, help="images of a step and of a call of an engine (default: 8)")
    parser.add_argument("--threads", type=int, help="of each process (default: as many as cores)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each column, 2 at least (default: 3)")
    parser.add_argument("--torch_python", metavar="PYTHON", help="Python of an environment with PyTorch and numpy")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="file for the figures, a row for each")
    options = parser.parse_args()
    if options.rounds < 2 or options.batch_size < 2:
        parser.error("--rounds and --batch_size: must be 2 at least; the first turn warms up, and batch norm needs two images")
    if options.torch_python and not shutil.which(options.torch_python):
        parser.error(f"--torch_python {options.torch_python}: cannot be run; name the Python of an environment with PyTorch")

    with_torch = [PYTORCH] if options.torch_python else []
    columns = {"training": ["ours", "off", *with_torch], "embedding": [*candidates("auto"), *with_torch]}
    head = ["network", "parameters", "multiply-adds", *(f"{phase}: {name}" for phase in columns for name in columns[phase])]
    print(table_row(head), table_row(["---"] * len(head)), sep="\n", flush=True)
    rows = [("network", "parameters", "multiply_adds", "phase", "column", "images_per_second", "of_pytorch")]
    for network in (progress := tqdm(options.networks, unit="network")):
        cells = []
        for phase, names in columns.items():
            progress.set_description(f"{network}, {phase}")
            facts, speeds = measure(network, phase, options)
            ratios = {name: speed / speeds[PYTORCH] for name, speed in speeds.items() if with_torch and name != PYTORCH}
            cells += [cell(speeds.get(name), ratios.get(name)) for name in names]
            counts = facts[0].parameters, facts[0].multiply_adds
            rows += [(network, *counts, phase, name, speed, ratios.get(name)) for name, speed in speeds.items()]
        tqdm.write(table_row([network, f"{counts[0] / 1e6:.1f} M", f"{counts[1] / 1e6:,.0f} M", *cells]))
    versions = ", ".join(one.version for one in facts)
    print(f"\nimages/s at batch {options.batch_size}" + (", with the ratio to PyTorch's" if with_torch else ""))
    print(f"{training_speed.cpu_name()}, {facts[0].threads} threads, load {os.getloadavg()[0]:.1f}; {versions}")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    if "--work" in sys.argv:
        work(*sys.argv[2:])
    else:
        main()
