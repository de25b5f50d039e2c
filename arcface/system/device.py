"""The device that this process computes on: first chosen, without a context of CUDA on it, then started.

They are two functions because worker processes are forked in between, and no process may be forked once CUDA has started.
"""

import os

import paddle
from paddle.distributed import ParallelEnv

from arcface.errors import UserError
from arcface.extras import how_to_install
from arcface.options.kinds import Device, kind_of
from arcface.system.first_kernels import run_first_kernels
from arcface.system.hardware import gpu_count
from arcface.system.precision import allow_tf32
from arcface.system.startup import ranks_here


def choose_device(name: str) -> str:
    """Resolve and start this process's device, and return its name, such as "cpu" or "gpu:0"."""
    device = resolve_device(name)
    start_device(device)
    return device


def resolve_device(name: str) -> str:
    """Return which device "auto", "cpu", "gpu" or "gpu:3" is for this rank: "cpu" or "gpu:0"..., without starting anything on it.

    "auto" and "gpu" are this rank's GPU; "auto" is the CPU if this Paddle can use no GPU. Raises UserError if there is no such GPU,
    or other ranks would share it.
    """
    try:
        kind_of(Device)[0].read(name)
    except ValueError as error:
        raise UserError(f"--device: {error}") from None
    count = 0 if name == "cpu" else gpu_count()
    if count == 0:
        if name in ("auto", "cpu"):
            return "cpu"
        installed = f"--device {name}: paddlepaddle {paddle.__version__}"
        if paddle.device.is_compiled_with_cuda():
            raise UserError(f"{installed} finds no GPU; use --device cpu or auto")
        raise UserError(f"{installed} is built for CPU; use --device cpu or auto, or {how_to_install('gpu')}")
    if ranks_here() > count:
        raise UserError(
            f"{ranks_here()} ranks run on this machine, where Paddle finds {_number_of_gpus(count)}, and each needs its own;"
            " start fewer with --nproc_per_node, or pass --device cpu"
        )
    ranks, number = _from_launcher()
    source, todo = f"FLAGS_selected_gpus={number}", "unset it, or start with this machine's own launcher"
    if name.startswith("gpu:"):
        if ranks > 1:
            raise UserError(
                f"--device {name}: with {ranks} ranks, the launcher gives each its GPU; pass --device gpu, and choose the GPUs with"
                " the launcher's --devices or with CUDA_VISIBLE_DEVICES"
            )
        number, source, todo = int(name.removeprefix("gpu:")), f"--device {name}", "pass a smaller number"
    if not 0 <= number < count:
        found = f"Paddle finds {_number_of_gpus(count)} here, numbered from 0"
        raise UserError(f"{source}: {found}; {todo} (CUDA_VISIBLE_DEVICES hides GPUs)")
    return f"gpu:{number}"


def start_device(device: str) -> None:
    """Make a resolved device Paddle's for this process; on a GPU, run first kernels, with TF32 off until it is asked for.

    Raises UserError if a kernel fails: the GPU, what Paddle is built for, what failed, and what to do.
    """
    paddle.set_device(device)
    if device != "cpu":
        allow_tf32(False)
        run_first_kernels(device)


def search_convolutions() -> None:
    """Let cuDNN time its algorithms for each new shape of a convolution and keep the fastest; does nothing without CUDA.

    Raises UserError if FLAGS_cudnn_deterministic is set, with which Paddle's convolutions refuse the search.
    """
    if not paddle.device.is_compiled_with_cuda():
        return
    deterministic = "FLAGS_cudnn_deterministic"
    if paddle.get_flags([deterministic])[deterministic]:
        raise UserError(f"--cudnn_search 1: {deterministic} is set, and the fastest algorithm is not always the same; unset one")
    paddle.set_flags({"FLAGS_cudnn_exhaustive_search": True})


def _from_launcher() -> tuple[int, int]:
    """Return the number of ranks, and this rank's GPU: what the launcher or a user has set, else 1 and 0."""
    names = ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "FLAGS_selected_gpus")
    found = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    try:
        ranks, number = ParallelEnv().world_size, ParallelEnv().device_id
    except ValueError as error:
        raise UserError(f"{found}: must be whole numbers; leave them to paddle.distributed.launch, or unset them") from error
    if ranks > 1 and "FLAGS_selected_gpus" not in os.environ:
        raise UserError(f"{found}: without FLAGS_selected_gpus all ranks take the same GPU; start with paddle.distributed.launch")
    return ranks, number


def _number_of_gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"
