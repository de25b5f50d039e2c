"""How long a step of the head takes on a CPU (forward, backward, update), beside what it is made of and what others do.

    python benchmarks/head_speed.py [--steps 9]

One process, tuned as train.py tunes it, takes turns between our head at sample rates 1.0 and 0.1, with the CPU kernels and
without, and the three products of matrices that any such head needs; a second one between 100,000 classes and a tenth of
1,000,000. The naive formulation (one-hot labels, the margin on all cosines, automatic gradients, plain updates) and, where
PyTorch is installed, a Partial FC of ours in PyTorch have processes of their own: the gigabytes that they go through would
slow the others. Memory is what the largest head adds to the peak of a process that has run a small one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BATCH_SIZE, SIZE, CLASSES, FEW, MANY = 128, 128, 85_742, 100_000, 1_000_000
SCALE, MARGIN, LR, MOMENTUM, WEIGHT_DECAY = 64.0, 0.5, 0.1, 0.9, 5e-4
WARM_UP = 2


def start_tuned() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from arcface.system.startup import start_paddle

    start_paddle()
    import paddle

    paddle.set_device("cpu")


def our_step(classes: int, sample_rate: float, kernels: bool = True) -> Callable[[], None]:
    import paddle

    from arcface.distributed.process_group import world_size
    from arcface.head.partial_fc import PartialFC
    from arcface.ops.build import load_library

    rows = BATCH_SIZE // world_size()
    head, steps = PartialFC(classes, SIZE, scale=SCALE, sample_rate=sample_rate), iter(range(10**9))
    head.library = load_library() if kernels else None

    def step():
        x = paddle.randn([rows, SIZE])
        x.stop_gradient = False
        head.loss(x, paddle.randint(0, classes, [rows], dtype="int64"), next(steps)).backward()
        head.update(LR, MOMENTUM, WEIGHT_DECAY)

    return step


def three_products() -> tuple[Callable[[], None], Callable[[], None]]:
    """As the formula writes them, and the way they are fastest: with the classes along the rows."""
    import paddle

    x, w = paddle.randn([BATCH_SIZE, SIZE]), paddle.randn([CLASSES, SIZE])
    logits, transposed, x_transposed = paddle.randn([BATCH_SIZE, CLASSES]), paddle.randn([CLASSES, BATCH_SIZE]), x.t().contiguous()

    def as_written():
        paddle.matmul(x, w, transpose_y=True), paddle.matmul(logits, w), paddle.matmul(logits, x, transpose_x=True)

    def fastest():
        paddle.matmul(w, x_transposed), paddle.matmul(transposed, w, transpose_x=True), paddle.matmul(transposed, x)

    return as_written, fastest


def naive_step() -> Callable[[], None]:
    import paddle
    import paddle.nn.functional as F

    w = paddle.randn([CLASSES, SIZE]) * 0.01
    w.stop_gradient = False
    velocity = paddle.zeros_like(w)

    def step():
        nonlocal velocity
        x, labels = paddle.randn([BATCH_SIZE, SIZE]), paddle.randint(0, CLASSES, [BATCH_SIZE])
        x.stop_gradient = False
        cosine = paddle.matmul(F.normalize(x), F.normalize(w), transpose_y=True).clip(-1 + 1e-6, 1 - 1e-6)
        one_hot = F.one_hot(labels, CLASSES)
        logits = SCALE * (one_hot * paddle.cos(paddle.acos(cosine) + MARGIN) + (1 - one_hot) * cosine)
        loss = -(one_hot * paddle.log(F.softmax(logits) + 1e-30)).sum(1).mean()
        loss.backward()
        with paddle.no_grad():
            velocity = MOMENTUM * velocity + w.grad + WEIGHT_DECAY * w
            w.set_value(w - LR * velocity)
        w.clear_gradient()

    return step


def pytorch_step(sample_rate: float) -> Callable[[], None]:
    import torch
    import torch.nn.functional as F

    weight, velocity = torch.randn(CLASSES, SIZE) * 0.01, torch.zeros(CLASSES, SIZE)

    def step():
        x, labels = torch.randn(BATCH_SIZE, SIZE, requires_grad=True), torch.randint(0, CLASSES, [BATCH_SIZE])
        rows = slice(None)
        if sample_rate < 1:
            chance = torch.rand(CLASSES)
            chance[labels] = 2
            rows = chance.topk(int(sample_rate * CLASSES)).indices.sort().values
            labels = torch.searchsorted(rows, labels)
        w = weight[rows].detach().requires_grad_()
        cosine = F.linear(F.normalize(x), F.normalize(w)).clamp(-1, 1)
        index = torch.arange(BATCH_SIZE)
        target = torch.cos(torch.acos(cosine[index, labels].clamp(-1 + 1e-6, 1 - 1e-6)) + MARGIN)
        F.cross_entropy(SCALE * cosine.index_put((index, labels), target), labels).backward()
        with torch.no_grad():
            v = velocity[rows].mul_(MOMENTUM).add_(w.grad).add_(w, alpha=WEIGHT_DECAY)
            weight[rows] = w - LR * v
            velocity[rows] = v

    return step


def median_seconds(steps: int, **parts: Callable[[], None]) -> None:
    """Let the parts take turns, and print the median seconds of each."""
    seconds = {name: [] for name in parts}
    for _ in range(WARM_UP + steps):
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print("RESULT", name, statistics.median(values[WARM_UP:]))


def memory(sample_rate: float) -> None:
    """Print what the largest head adds to the peak of this rank, in bytes."""
    start_tuned()
    from arcface.distributed.process_group import rank, start_ranks

    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    start_ranks()
    our_step(1000, sample_rate)()
    before = peak()
    step = our_step(MANY, sample_rate)
    for _ in range(3):
        step()
    if rank() == 0:
        print("RESULT", "bytes", peak() - before)


def measure(what: str, steps: int) -> None:
    if what.startswith("memory"):
        memory(float(what.split()[1]))
    elif what == "tuned":
        start_tuned()
        as_written, fastest = three_products()
        median_seconds(
            steps,
            full=our_step(CLASSES, 1.0),
            tenth=our_step(CLASSES, 0.1),
            products=as_written,
            fastest_products=fastest,
            of_paddle=our_step(CLASSES, 1.0, kernels=False),
        )
    elif what == "naive, tuned":
        start_tuned()
        median_seconds(steps, naive=naive_step())
    elif what == "many":
        start_tuned()
        median_seconds(steps, few=our_step(FEW, 1.0), many=our_step(MANY, 0.1))
    elif what == "naive as it comes":
        median_seconds(steps, naive_as_it_comes=naive_step())
    else:
        median_seconds(steps, pytorch=pytorch_step(1.0), pytorch_tenth=pytorch_step(0.1))


def results_of(what: str, steps: int, ranks: int = 1) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as logs:
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", logs] if ranks > 1 else []
        command = [sys.executable, *launch, __file__, "--steps", str(steps), "--measure", what]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(["-1"] * ranks)}  # the launcher wants one for each rank
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in printed.splitlines() if line.startswith("RESULT")]
    return {name: float(value) for _, name, value in lines}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9, help="steps that count (default: %(default)s)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.steps)
        return
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; batch {BATCH_SIZE}, size {SIZE}, {CLASSES:,} classes, median of"
        f" {options.steps} steps",
        flush=True,
    )
    seconds = {}
    for what in ("tuned", "many", "naive, tuned", "naive as it comes", "pytorch"):
        try:
            seconds |= results_of(what, options.steps)
        except subprocess.CalledProcessError as error:
            if what != "pytorch" or "No module named 'torch'" not in error.stderr:
                raise SystemExit(error.stderr) from None

    def row(name: str, key: str, *against: tuple[str, str]) -> None:
        if key in seconds:
            ratios = "   ".join(f"{seconds[key] / seconds[other]:.2f} of {label}" for other, label in against if other in seconds)
            print(f"{name:45} {seconds[key] * 1e3:8.1f} ms   {ratios}")

    row(
        "our head",
        "full",
        ("products", "the products"),
        ("fastest_products", "them at their fastest"),
        ("naive", "naive"),
        ("naive_as_it_comes", "naive as it comes"),
        ("pytorch", "PyTorch"),
    )
    row("our head, sample rate 0.1", "tenth", ("full", "all classes"), ("pytorch_tenth", "PyTorch's"))
    row("our head, without the CPU kernels", "of_paddle", ("products", "the products"))
    row("three products, as the formula writes them", "products")
    row("three products, classes along the rows", "fastest_products")
    row("naive: one-hot, in our tuned process", "naive")
    row("naive: one-hot, as it comes", "naive_as_it_comes")
    row("PyTorch Partial FC, as it comes", "pytorch")
    row("PyTorch Partial FC, sample rate 0.1", "pytorch_tenth")
    row(f"our head, {FEW:,} classes", "few")
    row(f"our head, {MANY:,} classes, sample rate 0.1", "many", ("few", f"{FEW:,} classes"))
    for sample_rate in (1.0, 0.1):
        for ranks in (1, 2):
            added = results_of(f"memory {sample_rate}", options.steps, ranks)["bytes"]
            weights, logits = 8 * SIZE * MANY / ranks, 4 * BATCH_SIZE * MANY * sample_rate / ranks
            print(
                f"memory a rank, {MANY:,} classes, rate {sample_rate}, {ranks} ranks: {added / 1e6:6.0f} MB ="
                f" {weights / 1e6:.0f} centres and momentum + {logits / 1e6:.0f} logits"
                f" + {(added - weights - logits) / weights:.1%} of the former"
            )
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
