"""Which device computes."""

import paddle
from paddle.distributed import ParallelEnv

from arcface.errors import UserError


def choose_device(name: str) -> str:
    """Make `name` ("auto", "cpu" or "gpu") Paddle's device for this process and return its name, "cpu" or "gpu:0"...

    "auto" takes this rank's GPU if this Paddle can use one. Raises UserError if "gpu" is asked for and there is none.
    """
    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    if name == "gpu" and gpus == 0:
        reason = "finds no GPU" if paddle.device.is_compiled_with_cuda() else "is built for CPU (see requirements-gpu.txt)"
        raise UserError(f"--device gpu: this paddlepaddle {paddle.__version__} {reason}; use --device cpu or auto")
    device = "cpu" if name == "cpu" or gpus == 0 else f"gpu:{ParallelEnv().device_id}"
    paddle.set_device(device)
    return device
