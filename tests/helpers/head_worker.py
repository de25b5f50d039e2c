"""Runs the head on all cases as one rank of some; writes what it computed to <folder>/<rank>.npz.

Takes the folder, "kernels" or "", and in how many parts each step is computed.
"""

import sys
from pathlib import Path

from arcface.system.startup import start_paddle

start_paddle()

import head_cases as cases
import numpy as np
import paddle

from arcface.distributed.process_group import rank, start_ranks, world_size
from arcface.head import block_softmax
from arcface.head.margins import Margin
from arcface.head.partial_fc import PartialFC
from arcface.ops.build import load_library


def two_steps(classes: int, margins: tuple, sample_rate: float, scale: float) -> dict[str, np.ndarray]:
    rows = slice(rank() * cases.ROWS // world_size(), (rank() + 1) * cases.ROWS // world_size())
    head = PartialFC(classes, cases.SIZE, Margin(*margins), scale, sample_rate)
    head.library = load_library() if sys.argv[2] == "kernels" else None
    head.weight = paddle.to_tensor(cases.batch(classes, 0)[2][head.shard.start : head.shard.stop])
    result = {"shard": np.array(head.shard)}
    for step in range(2):
        embeddings, labels, _ = cases.batch(classes, step)
        parts = [paddle.to_tensor(x, stop_gradient=False) for x in np.split(embeddings[rows], int(sys.argv[3]))]
        losses = []
        for part, x in enumerate(parts):
            losses.append(head.loss(x, paddle.to_tensor(labels[rows]), step, None, part, len(parts)))
            (losses[-1] * 3).backward()
        head.update(cases.LR, cases.MOMENTUM, cases.WEIGHT_DECAY)
        sampled = np.arange(head.shard.size) if head.sampled is None else head.sampled.numpy()
        result |= {
            f"loss{step}": sum(losses).numpy(),
            f"gradient{step}": np.concatenate([x.grad.numpy() for x in parts]) / 3,
            f"sampled{step}": sampled,
            f"weight{step}": head.weight.numpy().copy(),
            f"velocity{step}": head.velocity.numpy().copy(),
        }
    return result


start_ranks()
block_softmax.CLASSES_PER_BLOCK["cpu"] = cases.CLASSES_PER_BLOCK
results = {}
for name, scale in cases.LOSSES:
    for classes in (cases.EQUAL, cases.UNEQUAL):
        for rate in (1.0, 0.5, 0.1):
            for key, value in two_steps(classes, cases.MARGINS[name], rate, scale).items():
                results[f"{name}/{scale}/{classes}/{rate}/{key}"] = value
np.savez(Path(sys.argv[1]) / f"{rank()}.npz", **results)
