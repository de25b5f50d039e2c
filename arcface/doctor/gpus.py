"""GPUs: what they are, whether this Paddle has code for them, and what it finds to use them with."""

import os

import paddle

from arcface.doctor.libraries import library_versions, pairs_without_peer_access
from arcface.extras import how_to_install
from arcface.io.report import Report
from arcface.system import hardware
from arcface.system.hardware import format_bytes
from arcface.system.wheel import built_for, has_code_for, wheel_for


def examine_gpus(report: Report) -> None:
    """Report the GPUs that Paddle can use, before anything runs on them."""
    gpus = hardware.gpus()
    if not gpus:
        advice = None
        if paddle.device.is_compiled_with_cuda():
            advice = "this Paddle is built for GPUs and finds none: check nvidia-smi, and in Docker pass --gpus all"
        elif hardware.has_nvidia_driver():
            advice = f"this machine has an NVIDIA driver, but Paddle is built for CPU; {how_to_install('gpu')}"
        report.line("GPUs", "none", advice)
    for number, gpu in enumerate(gpus):
        report.line(
            f"GPU {number}",
            f"{gpu.name}, compute capability {gpu.capability}, {format_bytes(gpu.memory)}",
            f"this Paddle, for {built_for()}, has no code for {gpu.capability}: install {wheel_for(gpu.capability)}"
            if has_code_for(gpu.capability) is False
            else None,
        )


def examine_libraries(report: Report) -> None:
    """Report driver, libraries, and access of GPUs to one another's memory, once a GPU has been started."""
    override = os.environ.get("NVIDIA_TF32_OVERRIDE", "0")
    report.line(
        "libraries",
        ", ".join([f"driver {hardware.nvidia_driver()}", *(f"{name} {version}" for name, version in library_versions().items())]),
        f"NVIDIA_TF32_OVERRIDE={override} may force TF32 on head, loss and verification too: unset it" if override != "0" else None,
    )
    count = len(hardware.gpus())
    if count > 1:
        without = pairs_without_peer_access(count)
        report.line(
            "peer access",
            "unknown"
            if without is None
            else f"none between GPUs {', '.join(f'{one}-{other}' for one, other in without)}"
            if without
            else "between all GPUs",
        )
