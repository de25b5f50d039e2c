"""The device that this process computes on."""

import paddle
from paddle.distributed import ParallelEnv

from arcface.errors import UserError
from arcface.extras import how_to_install


def choose_device(name: str) -> str:
    """Set Paddle's device for this process from "auto", "cpu" or "gpu", and return its name, such as "cpu" or "gpu:0".

    "auto" selects this rank's GPU if this Paddle can use one, else the CPU. Raises UserError for "gpu" without a usable GPU.
    """
    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    if name == "gpu" and gpus == 0:
        installed = f"--device gpu: paddlepaddle {paddle.__version__}"
        if paddle.device.is_compiled_with_cuda():
            raise UserError(f"{installed} finds no GPU; use --device cpu or auto")
        raise UserError(f"{installed} is built for CPU; use --device cpu or auto, or {how_to_install('gpu')}")
    device = "cpu" if name == "cpu" or gpus == 0 else f"gpu:{ParallelEnv().device_id}"
    paddle.set_device(device)
    return device


resolve_device = choose_device


def start_device(device): ...
