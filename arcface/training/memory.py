"""Memory that a training run needs, by part, compared with what the machine or card has before the first step.

No table: the activations are what the layers of the backbone save for their gradients, of a batch of two that they are shown.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import takewhile
from types import SimpleNamespace
from typing import Any, NamedTuple

import paddle
from paddle import nn

from arcface.backbones import create_backbone
from arcface.backbones.layers import FusedConvolutions, fuse_convolutions
from arcface.backbones.precision import DTYPES, emulated_cast, use_casts
from arcface.backbones.recompute import recomputable_blocks
from arcface.backbones.stages import stage_of, stages, stages_named
from arcface.config import TrainConfig
from arcface.data.workers import SLOTS_PER_WORKER
from arcface.errors import UserError
from arcface.head.block_softmax import classes_per_block
from arcface.io.images import SIZE, normalise
from arcface.ops.build import can_be_loaded
from arcface.system.hardware import DeviceMemory, device_memory, format_bytes, resident_memory

IMAGES_SHOWN = 2
VECTORS = {"sgd": 4, "adamw": 7}  # as long as what is trained, while the optimizer takes a step
# Of the activations. Gradients are there while not all activations have gone yet, and freed memory is kept, in pieces that not
# everything fits into. Measured with MobileFaceNet_128 on a CPU: 1.11 with the CPU kernels, 1.32 with Paddle's layers, the same for
# all batches; with an emulated precision, whose rounding takes copies, 1.45 to 1.85 of three networks. On a card Paddle gives idle
# pieces back before it fails: what is alive at once, counted on a CPU, is 1.01, and the rest, for pieces that are partly in use, is
# not measured.
WITH_GAPS = {"kernels": 1.15, "layers": 1.3, "emulated": 1.7, "card": 1.1}
# Of a card, beside tensors: CUDA's context with Paddle's kernels and cuBLAS, some 500 MB, and cuDNN's workspace, for which Paddle
# allows 512 MB (FLAGS_conv_workspace_size_limit).
CUDA_ALLOWANCE = 2**30
RESERVE = 0.9  # of the memory, for a batch size that is recommended

# What Paddle calls it: its allocator, CUDA, cuBLAS and cuDNN. Of types MemoryError, OSError, and RuntimeError where pybind11 chose.
_OUT_OF_MEMORY = re.compile("ResourceExhausted|out of memory|cudaErrorMemoryAllocation|_STATUS_ALLOC_FAILED", re.IGNORECASE)

_NO_WORK: Any = SimpleNamespace(conv_bn_prelu_forward=lambda *_: True)  # in place of the CPU kernels: sizes matter here, not values


class Memory(NamedTuple):
    """Bytes that a rank needs, of the card where it computes on a GPU."""

    process: int  # before the first step: Python, Paddle and the lists of the dataset; of a card, what is allowed for CUDA
    weights: int  # of the backbone, with the statistics of batch norm, also averaged (--ema), and what casts make of them
    gradients: int  # of what is trained of the backbone, by layer and in one vector, their averages, and what the update makes
    activations: int  # what the backward pass needs of the forward pass, of the images that are computed at a time
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


def estimate(config: TrainConfig, num_classes: int, ranks: int, device: str) -> Memory:
    """Return what training needs on each of the ranks; `device` is "cpu" or "gpu:0"....

    On a CPU it is within 15 % of the most that is resident after some steps; with most of the backbone frozen, up to 50 % above.
    On a GPU it is not measured.
    """
    on_cpu = device == "cpu"
    kernels = on_cpu and config.cpu_kernels == "auto" and config.batch_norm == "local" and can_be_loaded()
    kernels = kernels and config.precision == "float32"
    low = DTYPES.get(config.precision)
    norms_frozen, recompute = config.batch_norm == "frozen", bool(config.recompute)
    case = _Case(config.network, config.embedding_size, norms_frozen, config.freeze, kernels, recompute, low, emulated=on_cpu)
    seen = _look_at(case)
    gaps = WITH_GAPS["card" if not on_cpu else "kernels" if kernels else "emulated" if low else "layers"]
    images, images_here = config.batch_size, -(-config.batch_size // ranks)
    classes = -(-num_classes // ranks)
    sampled = min(classes, round(config.sample_rate * classes) + images) if config.sample_rate < 1 else 0
    in_use = sampled or classes
    block = min(in_use, classes_per_block(device))
    batches = 2 + (SLOTS_PER_WORKER * config.num_workers if on_cpu else 0)
    return Memory(
        process=resident_memory() if on_cpu else CUDA_ALLOWANCE,
        weights=4 * seen.values * (2 if config.ema else 1) + (0 if not low else 4 if on_cpu else 2) * seen.trained,
        gradients=4 * seen.trained * VECTORS[config.optimizer],
        activations=round(gaps * seen.saved * images_here / config.accumulate),
        centres=4 * 2 * classes * config.embedding_size,
        logits=4 * ((in_use + block) * images + (sampled + 3 * block + 8 * images) * config.embedding_size),
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
    in_precision = "" if config.precision == "float32" else f" and --precision {config.precision}"
    needs = f"{config.network} with --batch_size {config.batch_size}{in_precision} needs about {needed}"

    if sharing * needed.total > memory.total:
        if sharing * needed.centres > memory.total:
            raise UserError(
                f"{config.data_dir}: the centres of {num_classes} classes and their momentum do not fit into memory"
                f" ({needed.centres / 1e9:.1f} GB a rank); correct --num_classes or train on more ranks"
            )
        fitting = _fitting_batch(config, num_classes, ranks, device, memory.total / sharing)
        advice = f"use --batch_size {fitting}" if fitting else "no batch is small enough: use more memory, or fewer classes a rank"
        raise UserError(f"{needs}, more than {_share(memory, sharing)}; {advice}")
    resident = needed.process if device == "cpu" else 0  # and so no longer among what is free
    if sharing * (needed.total - resident) > memory.available:
        fitting = _fitting_batch(config, num_classes, ranks, device, memory.available / sharing + resident)
        advice = "end other programs" + (f", or use --batch_size {fitting}" if fitting else "")
        return f"{needs}, and only {format_bytes(memory.available)} of {memory.owner} are free now: {advice}"
    return None


@contextmanager
def out_of_memory_explained(
    config: TrainConfig, num_classes: int | None = None, ranks: int = 1, device: str = "cpu"
) -> Iterator[None]:
    """Make one line of what Paddle, CUDA's libraries and NumPy raise when memory runs out.

    Once `num_classes` are known, of a GPU the line tells what the run was estimated to need by part, what the card has and
    holds, and a smaller batch.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        lines = str(error).rpartition("Error Message Summary:")[2].splitlines()  # not those of a C++ traceback
        said = (line.strip() for line in lines if "alloc" in line.lower() or "memory" in line)
        detail = re.sub(r"^\((ResourceExhausted|External)\) ", "", next(said, "none is left"))[:200]
        advice = f"use a smaller --batch_size than {config.batch_size}, or more ranks"
        if device != "cpu" and num_classes is not None:
            advice = _explain(config, num_classes, ranks, device)
        raise UserError(f"out of memory ({detail}): {advice}") from error


def _explain(config: TrainConfig, num_classes: int, ranks: int, device: str) -> str:
    """Return what is known of a card whose memory has run out, and a batch that should fit."""
    memory, held = device_memory(device), paddle.device.cuda.memory_reserved(device)
    assert memory  # known of every card
    needed = estimate(config, num_classes, ranks, device)
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in needed._asdict().items())
    # No more than was estimated, which was not there or not enough.
    budget = min(needed.total, held + memory.available + needed.process)
    fitting = _fitting_batch(config, num_classes, ranks, device, budget)
    return (
        f"{config.network} with --batch_size {config.batch_size} was estimated to need {format_bytes(needed.total)} a rank"
        f" ({parts}); of {format_bytes(memory.total)} of {memory.owner} Paddle holds {format_bytes(held)} in this process, and"
        f" {format_bytes(memory.available)} are free; "
        + (f"use --batch_size {fitting}, or more ranks" if fitting else "end other programs on the card, or use more ranks")
    )


def _share(memory: DeviceMemory, sharing: int) -> str:
    return f"{format_bytes(memory.total)} of {memory.owner}" + (f" for {sharing} ranks" if sharing > 1 else "")


def _fitting_batch(config: TrainConfig, num_classes: int, ranks: int, device: str, bytes_of_rank: float) -> int | None:
    """Return a batch size that fits into memory, None if none does."""

    def total(batch_size: int) -> int:
        return estimate(replace(config, batch_size=batch_size), num_classes, ranks, device).total

    unit = ranks * config.accumulate
    fitting = bisect_right(range(unit, config.batch_size, unit), RESERVE * bytes_of_rank, key=total)
    return (fitting // 8 * 8 or fitting) * unit or None


class _Seen(NamedTuple):
    values: int  # of parameters and buffers
    trained: int  # of parameters
    saved: float  # bytes for the backward pass, of one image; with the largest of the blocks computed again, and no less than
    # what a frozen layer makes


class _Case(NamedTuple):
    """What the count of a backbone depends on.

    low: the type of what is not float32, "bfloat16" or "float16", as a card has it or, `emulated`, a CPU.
    """

    network: str
    embedding_size: int
    norms_frozen: bool
    frozen_stages: str
    kernels: bool
    recompute: bool
    low: str | None
    emulated: bool


@cache
def _look_at(case: _Case) -> _Seen:
    """Count what a backbone is made of and what it saves; on the CPU, so that a card is left as it is."""
    device = paddle.get_device()
    paddle.set_device("cpu")
    try:
        return _count(case)
    finally:
        paddle.set_device(device)


def _count(case: _Case) -> _Seen:
    network, embedding_size, norms_frozen, frozen_stages, kernels, recompute, low, emulated = case
    backbone = create_backbone(network, embedding_size, "frozen" if norms_frozen else "local")  # "sync" saves as much as "local"
    if kernels:
        fuse_convolutions(backbone, _NO_WORK)
    state, known, names = backbone.state_dict(), stages(backbone), stages_named(frozen_stages, backbone)
    own = {tensor.data_ptr() for tensor in state.values()}
    saved: dict[int, paddle.Tensor] = {}
    dropped: list[tuple[nn.Layer, dict[int, paddle.Tensor]]] = []  # by frozen layers
    halved, kept = set[int](), list[paddle.Tensor]()  # all are kept: nothing else may come to lie at their addresses
    begun: dict[nn.Layer, int] = {}  # how much was saved before a layer
    largest = 0  # of a block computed again: it is there beside what is saved, and so are its gradients, which are as large

    def note(tensor: paddle.Tensor) -> paddle.Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor
        return tensor

    def size(tensors: dict[int, paddle.Tensor]) -> int:
        return sum(tensor.size * (2 if where in halved else 4) for where, tensor in tensors.items())

    def begin(layer: nn.Layer, _) -> None:
        begun[layer] = len(saved)

    def pop(layer: nn.Layer) -> dict[int, paddle.Tensor]:
        return {where: saved.pop(where) for where in list(saved)[begun[layer] :]}

    def end(layer: nn.Layer, *_) -> None:
        dropped.append((layer, pop(layer)))

    def begin_again(block: nn.Layer, inputs: tuple[paddle.Tensor]) -> None:
        note(*inputs)
        begin(block, inputs)

    def end_again(block: nn.Layer, *_) -> None:
        nonlocal largest
        inside = pop(block)
        largest = max(largest, size(inside))
        kept.extend(inside.values())

    def cast(x: paddle.Tensor, dtype: str) -> paddle.Tensor:
        """Emulate, or note which tensors a card would have in a low type: no kernel of a CPU takes them."""
        where = x.data_ptr()
        if emulated:
            result = emulated_cast(x, dtype)
            if where in own:  # a copy of a parameter, whatever the batch
                own.add(result.data_ptr())
                kept.append(result)
            return result
        kept.append(x)
        if dtype == "float32":
            return x.clone() if where in halved else x
        halved.add(where)
        return x

    if low:
        use_casts(backbone, low, cast)
    layers = dict(backbone.named_sublayers())
    for stage in takewhile(names.__contains__, known):  # a frozen stage behind one that is trained saves as much as that
        for layer in (layers[part] for part in known[stage] if part in layers):
            fused = [inner for inner in layer.sublayers(include_self=True) if kernels and isinstance(inner, FusedConvolutions)]
            for computed in fused or [layer]:
                computed.register_forward_pre_hook(begin)
                computed.register_forward_post_hook(end)
    name_of = {layer: name for name, layer in layers.items()}
    for block in recomputable_blocks(backbone) if recompute else ():
        if stage_of(name_of[block], known) not in names:
            block.register_forward_pre_hook(begin_again)
            block.register_forward_post_hook(end_again)
    with paddle.autograd.saved_tensors_hooks(note, lambda tensor: tensor):
        embeddings = backbone(normalise(paddle.zeros([IMAGES_SHOWN, 3, SIZE, SIZE], "uint8")))

    # As measured: the memory of a frozen layer that a kernel computes is not yet used again by the next; within others, it is.
    made = [size(tensors) * (2 if kernels and isinstance(layer, FusedConvolutions) else 1) for layer, tensors in dropped]
    total = max(size(saved) + 2 * largest, *made, 0) / IMAGES_SHOWN
    del embeddings
    trained = sum(t.size for name, t in state.items() if not (t.stop_gradient or stage_of(name, known) in names))
    return _Seen(sum(t.size for t in state.values()), trained, total)
