"""One rank's share of a batch through <network> with sync batch norm, in float64; writes what all ranks have to <file>."""

import sys

from arcface.system.startup import start_paddle

start_paddle()

import numpy as np
import paddle

from arcface.backbones import create_backbone
from arcface.distributed.process_group import all_gather, all_reduce_sum, rank, start_ranks, world_size

IMAGES = 4

paddle.set_device("cpu")
start_ranks()
paddle.seed(0)
backbone = create_backbone(sys.argv[1], 128, "sync").to(dtype="float64")
rows = slice(rank() * IMAGES // world_size(), (rank() + 1) * IMAGES // world_size())
draw = np.random.default_rng(0)
images, upstream = draw.uniform(-1, 1, (IMAGES, 3, 112, 112))[rows], draw.standard_normal((IMAGES, 128))[rows]

embeddings = backbone(paddle.to_tensor(images))
(embeddings * paddle.to_tensor(upstream)).sum().backward()

result = {"embeddings": all_gather(embeddings).numpy()}
for name, tensor in backbone.state_dict().items():
    result[name] = tensor.numpy() if tensor.stop_gradient else all_reduce_sum(tensor.grad.clone()).numpy()
if rank() == 0:
    np.savez(sys.argv[2], **result)
