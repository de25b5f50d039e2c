"""Trains a linear backbone by the public names as one rank of some; writes losses and weights to <folder>/<rank>.npz."""

import sys
from pathlib import Path

from arcface import Margin, PartialFC, start_ranks  # isort: skip; before Paddle

import numpy as np
import paddle

paddle.set_device("cpu")
start_ranks()
rank, ranks = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
backbone = paddle.nn.Linear(6, 4, weight_attr=paddle.ParamAttr(initializer=paddle.nn.initializer.Assign(np.eye(6, 4) + 0.1)))
parallel = paddle.DataParallel(backbone) if ranks > 1 else backbone
optimizer = paddle.optimizer.Momentum(0.1, parameters=backbone.parameters())
head, losses = PartialFC(5, 4, Margin(m2=0.3), scale=16.0, sample_rate=0.6), []
for step in range(5):
    draw = np.random.default_rng(step)
    images, labels = draw.standard_normal((12, 6)).astype(np.float32), draw.integers(0, 5, 12)
    mine = slice(rank * 12 // ranks, (rank + 1) * 12 // ranks)
    loss = head.loss(parallel(paddle.to_tensor(images[mine])), paddle.to_tensor(labels[mine], "int64"), step)
    (loss * ranks).backward()
    optimizer.step()
    optimizer.clear_grad()
    head.update(0.1, 0.9, 2e-4)
    losses.append(loss.item())
np.savez(Path(sys.argv[1]) / f"{rank}.npz", losses=losses, weight=backbone.weight.numpy(), centres=head.weight.numpy())
