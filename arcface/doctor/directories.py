"""Doctor's examination of the directories that a run would write."""

import shutil
from pathlib import Path

from arcface.backbones import create_backbone
from arcface.config import TrainConfig
from arcface.io.files import check_writable
from arcface.io.lock import owner as lock_owner
from arcface.io.report import Report
from arcface.system.hardware import existing, size
from arcface.system.home import why_not_writable


def examine_directories(report: Report, config: TrainConfig, num_classes: int | None) -> None:
    """Report free space and lock of the output and log directories, and the home directory; leaves nothing behind."""
    checkpoint = 0
    with report.examining("network"):
        weights = sum(parameter.size for parameter in create_backbone(config.network, config.embedding_size).parameters())
        checkpoint = 8 * (weights + (num_classes or 0) * config.embedding_size)  # float32, and the momentum
    takes = f"; a checkpoint takes {size(checkpoint)}, and two exist while one is written" if num_classes and checkpoint else ""
    output, logdir = Path(config.output), Path(config.logdir)
    _examine_directory(report, "output", output, takes, 2 * checkpoint if takes else 0, lock_owner(output))
    _examine_directory(report, "logdir", logdir, "", 0, lock_owner(logdir) if logdir != output else None)
    if reason := why_not_writable():
        report.line(
            "home",
            f"{reason}: libraries use a temporary one, and each run builds its CPU kernels again unless XDG_CACHE_HOME names"
            " a writable directory",
        )


def _examine_directory(report: Report, name: str, directory: Path, takes: str, needed: int, owner: str | None) -> None:
    locked = f"{owner} is training there, so a second run would be refused: end it or choose another --{name}" if owner else None
    nearest = existing(directory)
    where = f"{directory}" if nearest == directory else f"{directory}, to be created in {nearest.resolve()}"
    try:
        free = shutil.disk_usage(nearest).free
        check_writable(nearest)
    except OSError as error:
        report.line(name, where, f"cannot be written ({error.strerror}): choose another --{name}", locked)
        return
    full = f"too little space: free some or choose another --{name}" if free < needed else None
    report.line(name, f"{where}: writable, {size(free)} free{takes}", full, locked)
