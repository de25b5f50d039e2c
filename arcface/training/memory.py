"""Memory that a training run needs, by part, compared with what the machine or card has before the first step.

No table: the activations are what the layers of the backbone save for their gradients, of a batch of two that they are shown.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import paddle

from arcface.backbones import create_backbone
from arcface.backbones.layers import fuse_convolutions
from arcface.config import TrainConfig
from arcface.data.workers import SLOTS_PER_WORKER
from arcface.errors import UserError
from arcface.head.block_softmax import classes_per_block
from arcface.io.images import SIZE, normalise
from arcface.ops.build import can_be_loaded
from arcface.system.hardware import DeviceMemory, device_memory, format_bytes, resident_memory

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # of an activation
IMAGES_SHOWN = 2
# Gradients are there while not all activations have gone yet, and freed memory is kept, in pieces that not everything fits
# into. Measured with MobileFaceNet_128: 1.30 with the CPU kernels, 1.35 with Paddle's layers; the same for all batches.
WITH_GAPS = 1.3
RESERVE = 0.9  # of the memory, for a batch size that is recommended

_NO_WORK: Any = SimpleNamespace(conv_bn_prelu_forward=lambda *_: True)  # in place of the CPU kernels: sizes matter here, not values


class Memory(NamedTuple):
    """Bytes that a rank needs, of the card where it computes on a GPU."""

    process: int  # Python, Paddle and the lists of the dataset, before the first step; 0 on a GPU
    weights: int  # of the backbone, with the statistics of batch norm
    gradients: int  # of the backbone, and their momentum
    activations: int  # what the backward pass needs of the forward pass
    centres: int  # of this rank's classes, and their momentum
    logits: int  # of this rank's classes for the images of all ranks
    batches: int  # of images, here and in the workers

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(self)

    def __str__(self) -> str:
        largest = max(self._fields, key=lambda name: getattr(self, name))
        return f"{format_bytes(self.total)} a rank, {format_bytes(getattr(self, largest))} of it {largest}"


def estimate(config: TrainConfig, num_classes: int, ranks: int, device: str, precision: str = "float32") -> Memory:
    """Return what training needs on each of the ranks; `device` is "cpu" or "gpu:0"..., `precision` that of the activations.

    On a CPU it is within 15 % of the most that is resident after some steps. On a GPU, what CUDA and its libraries take
    for themselves is left out.
    """
    on_cpu = device == "cpu"
    kernels = on_cpu and config.cpu_kernels == "auto" and config.batch_norm == "local" and can_be_loaded()
    seen = _look_at(config.network, config.embedding_size, config.batch_norm == "frozen", kernels)
    images, images_here = config.batch_size, -(-config.batch_size // ranks)
    classes = -(-num_classes // ranks)
    sampled = min(classes, round(config.sample_rate * classes) + images) if config.sample_rate < 1 else 0
    in_use = sampled or classes
    block = min(in_use, classes_per_block(device))
    batches = 2 + (SLOTS_PER_WORKER * config.num_workers if on_cpu else 0)
    return Memory(
        process=resident_memory() if on_cpu else 0,
        weights=4 * seen.values,
        gradients=4 * seen.trained * (2 if ranks == 1 else 3),  # with more ranks, a copy that they exchange
        activations=round(WITH_GAPS * BYTES[precision] * seen.saved * images_here),
        centres=4 * 2 * classes * config.embedding_size,
        logits=4 * (in_use * images + (sampled + 3 * block + 8 * images) * config.embedding_size),
        batches=batches * images_here * 3 * SIZE * SIZE,
    )


def check_memory(config: TrainConfig, num_classes: int, ranks: int, ranks_here: int, device: str) -> str | None:
    """Return a warning for a run that needs more memory than is free now, None for one that does not.

    Raises UserError, which names a batch that fits, if it needs more than there is. `ranks_here`: on this machine.
    """
    memory = device_memory(device)
    if memory is None:
        return None
    sharing = ranks_here if device == "cpu" else 1
    needed = estimate(config, num_classes, ranks, device)
    needs = f"{config.network} with --batch_size {config.batch_size} needs about {needed}"

    if sharing * needed.total > memory.total:
        if sharing * needed.centres > memory.total:
            raise UserError(
                f"{config.data_dir}: the centres of {num_classes} classes and their momentum do not fit into memory"
                f" ({needed.centres / 1e9:.1f} GB a rank); correct --num_classes or train on more ranks"
            )
        fitting = _fitting_batch(config, num_classes, ranks, device, memory.total / sharing)
        advice = f"use --batch_size {fitting}" if fitting else "no batch is small enough: use more memory, or fewer classes a rank"
        raise UserError(f"{needs}, more than {_share(memory, sharing)}; {advice}")
    if sharing * (needed.total - needed.process) > memory.available:
        fitting = _fitting_batch(config, num_classes, ranks, device, memory.available / sharing + needed.process)
        advice = "end other programs" + (f", or use --batch_size {fitting}" if fitting else "")
        return f"{needs}, and only {format_bytes(memory.available)} of {memory.owner} are free now: {advice}"
    return None


@contextmanager
def out_of_memory_explained(config: TrainConfig) -> Iterator[None]:
    """Make one line of what Paddle and NumPy raise when memory runs out."""
    try:
        yield
    except MemoryError as error:
        said = (line.strip() for line in str(error).splitlines() if "alloc" in line or "memory" in line)
        detail = next(said, "none is left").removeprefix("(ResourceExhausted) ")[:200]
        advice = f"use a smaller --batch_size than {config.batch_size}, or more ranks"
        raise UserError(f"out of memory ({detail}): {advice}") from error


def _share(memory: DeviceMemory, sharing: int) -> str:
    return f"{format_bytes(memory.total)} of {memory.owner}" + (f" for {sharing} ranks" if sharing > 1 else "")


def _fitting_batch(config: TrainConfig, num_classes: int, ranks: int, device: str, bytes_of_rank: float) -> int | None:
    """Return a batch size that fits into memory, None if none does."""

    def total(batch_size: int) -> int:
        return estimate(replace(config, batch_size=batch_size), num_classes, ranks, device).total

    fitting = bisect_right(range(ranks, config.batch_size, ranks), RESERVE * bytes_of_rank, key=total)
    return (fitting // 8 * 8 or fitting) * ranks or None


class _Seen(NamedTuple):
    values: int  # of parameters and buffers
    trained: int  # of parameters
    saved: float  # values that are saved for the backward pass, of one image


@cache
def _look_at(network: str, embedding_size: int, frozen: bool, kernels: bool) -> _Seen:
    """Count what a backbone is made of and what it saves."""
    backbone = create_backbone(network, embedding_size, "frozen" if frozen else "local")  # "sync" saves as much as "local"
    if kernels:
        fuse_convolutions(backbone, _NO_WORK)
    state = backbone.state_dict().values()
    own, saved = {tensor.data_ptr() for tensor in state}, {}

    def note(tensor: paddle.Tensor) -> paddle.Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor  # which is kept: nothing else may come to lie there
        return tensor

    with paddle.autograd.saved_tensors_hooks(note, lambda tensor: tensor):
        embeddings = backbone(normalise(paddle.zeros([IMAGES_SHOWN, 3, SIZE, SIZE], "uint8")))
    values = sum(tensor.size for tensor in saved.values()) / IMAGES_SHOWN
    del embeddings
    return _Seen(sum(t.size for t in state), sum(t.size for t in state if not t.stop_gradient), values)
