"""Software: versions, packages, GPUs, device and engine."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np
import paddle
from paddle import inference

import arcface
from arcface.doctor.gpus import examine_gpus, examine_libraries
from arcface.extras import how_to_install_base
from arcface.inference.engines import candidates
from arcface.io.report import Report
from arcface.system.device import choose_device
from arcface.system.wheel import built_for

REQUIRED = ("visualdl", "tqdm", "matplotlib", "jinja2", "scikit-learn")
OPTIONAL = ("openvino", "onnxruntime", "paddle2onnx")


def examine_software(report: Report, device: str, engine: str) -> None:
    """Report versions and devices, and set Paddle's device to `device`, or to the CPU if it is not usable."""
    report.line("arcface", f"{arcface.__version__}{_commit()}, Python {platform.python_version()}, {platform.platform()}")
    mkl = "MKL" if paddle.version.mkl() == "ON" else "no MKL"
    onednn = "oneDNN" if _has_onednn() else "no oneDNN"
    report.line("paddle", f"{paddle.__version__} ({paddle.version.commit[:7]}), built with {built_for()}, {mkl}, {onednn}")
    missing = [name for name in REQUIRED if not _version(name)]
    others = [f"{name} {_version(name)}" if _version(name) else f"no {name}" for name in ("visualdl", *OPTIONAL)]
    report.line(
        "packages",
        ", ".join([f"numpy {np.__version__}", f"opencv {cv2.__version__}", *others]),
        f"not installed: {', '.join(missing)}; {how_to_install_base()}" if missing else None,
    )
    examine_gpus(report)
    chosen = "cpu"
    with report.examining("device"):
        chosen = choose_device(device)
    paddle.set_device(chosen)
    report.line("device", chosen)
    if chosen != "cpu":
        examine_libraries(report)
    with report.examining("engine"):
        report.line("engine", candidates(engine)[0])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """Return this code's commit and whether it has changed since, as " (commit)", or "" outside a git checkout."""
    directory = Path(arcface.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # An installed copy may be inside another repository.
        known = git("ls-files", "__init__.py") and git("describe", "--always", "--dirty=, changed", "--exclude=*")
    except (OSError, subprocess.TimeoutExpired):
        known = ""
    return f" ({known})" if known else ""


def _has_onednn() -> bool:
    config = inference.Config()
    config.enable_mkldnn()
    return config.mkldnn_enabled()
