"""Choice of the device that computes: CPU or GPU."""

import paddle
from paddle.distributed import ParallelEnv

from arcface.errors import UserError
from arcface.extras import how_to_install


def choose_device(name: str) -> str:
    """Set Paddle's device for this process and return its name, such as "cpu" or "gpu:0"; `name` is "auto", "cpu" or "gpu".

    "auto" uses this rank's GPU if this Paddle can use one. Raises UserError for "gpu" if there is none.
    """
    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    if name == "gpu" and gpus == 0:
        paddle_is = f"--device gpu: this paddlepaddle {paddle.__version__}"
        if paddle.device.is_compiled_with_cuda():
            raise UserError(f"{paddle_is} finds no GPU; use --device cpu or auto")
        raise UserError(f"{paddle_is} is built for CPU; use --device cpu or auto, or {how_to_install('gpu')}")
    device = "cpu" if name == "cpu" or gpus == 0 else f"gpu:{ParallelEnv().device_id}"
    paddle.set_device(device)
    return device
