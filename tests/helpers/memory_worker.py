"""Takes two training steps with the options that it is given; prints the estimated bytes and the most that were resident.

python memory_worker.py NUM_CLASSES --batch_size 32 ...
"""

import sys
from pathlib import Path

from arcface.system.startup import start_paddle

start_paddle()

import numpy as np
import paddle

from arcface.config import TrainConfig, parse
from arcface.training.data import Batch
from arcface.training.memory import estimate
from arcface.training.model import Model

STEPS = 2  # later ones take no more

num_classes, config = int(sys.argv[1]), parse(TrainConfig, sys.argv[2:])
paddle.set_device("cpu")
estimated = estimate(config, num_classes, 1, "cpu").total
model = Model(config, config, config, num_classes)
model.use_cpu_kernels()
draw = np.random.default_rng(0)
for step in range(STEPS):
    images = paddle.to_tensor(draw.integers(0, 256, (config.batch_size, 3, 112, 112), np.uint8))
    labels = draw.integers(0, num_classes, config.batch_size)
    computed = model.backward(model.forward(Batch(images, paddle.to_tensor(labels), labels), step))
    assert model.is_finite(computed).item()
    model.update(computed, 0.01)
highest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(estimated, int(highest.split()[1]) * 1024)
