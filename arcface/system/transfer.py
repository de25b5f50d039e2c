"""Copies between the host and the device that neither waits for: on a GPU, through pinned memory and behind what is queued.

From and to pageable memory a copy would first wait for all work that is queued. `.to(device, blocking=False)` is not used here:
on Paddle 2.6 it gives the pinned memory away, and asks the driver for its free memory.
"""

from collections.abc import Callable

import numpy as np
import paddle
from paddle.utils.dlpack import from_dlpack


def to_device(array: np.ndarray) -> paddle.Tensor:
    """Return an array as a tensor on Paddle's present device.

    On a CPU it may be the array's own memory: do not write to that any more. On a GPU the array is free at once; Paddle keeps the
    pinned copy until the device has it.
    """
    if paddle.get_device() == "cpu":
        return from_dlpack(np.require(array, requirements=["C", "W"]).__dlpack__())
    return paddle.to_tensor(array, place=paddle.CUDAPinnedPlace()).cuda(blocking=False)


def to_host(tensor: paddle.Tensor) -> Callable[[], np.ndarray]:
    """Start the copy of a small tensor to the host, and return what gives its present values, as an array.

    The call of that waits for this copy only, not for what is queued after it.
    """
    tensor = tensor.detach()
    if paddle.get_device() == "cpu":
        return tensor.clone().numpy
    pinned, copied = tensor.pin_memory(blocking=False), paddle.device.cuda.Event()
    copied.record()

    def values() -> np.ndarray:
        copied.synchronize()
        return pinned.numpy()

    return values
