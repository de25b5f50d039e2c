"""Directories: whether a run can write to its output and log directories."""

import shutil
from pathlib import Path

from arcface.backbones import create_backbone
from arcface.config import TrainConfig
from arcface.io.files import check_writable
from arcface.io.lock import owner
from arcface.io.report import Report
from arcface.system.hardware import format_bytes, nearest_existing
from arcface.system.home import why_not_writable


def examine_directories(report: Report, config: TrainConfig, num_classes: int | None) -> None:
    """Report free space and owner of the output and log directories; leaves nothing behind."""
    checkpoint = 0
    with report.examining("network"):
        weights = sum(parameter.size for parameter in create_backbone(config.network, config.embedding_size).parameters())
        checkpoint = 8 * (weights + (num_classes or 0) * config.embedding_size)  # float32, and the momentum
    needs = f"; a checkpoint needs {format_bytes(checkpoint)}, twice that during a save" if num_classes and checkpoint else ""
    output, logdir = Path(config.output), Path(config.logdir)
    _examine_directory(report, "output", output, needs, 2 * checkpoint if needs else 0, owner(output))
    _examine_directory(report, "logdir", logdir, "", 0, owner(logdir) if logdir != output else None)
    if reason := why_not_writable():
        report.line(
            "home",
            f"{reason}: libraries use a temporary one, and each run rebuilds its CPU kernels unless"
            " XDG_CACHE_HOME names a writable directory",
        )


def _examine_directory(report: Report, name: str, directory: Path, needs: str, needed: int, process: str | None) -> None:
    in_use = f"{process} is training there, so a second run is refused: end it or choose another --{name}" if process else None
    existing = nearest_existing(directory)
    where = f"{directory}" if existing == directory else f"{directory}, to be created in {existing.resolve()}"
    try:
        free = shutil.disk_usage(existing).free
        check_writable(existing)
    except OSError as error:
        report.line(name, where, f"not writable ({error.strerror}): choose another --{name}", in_use)
        return
    full = f"not enough space: free some, or choose another --{name}" if free < needed else None
    report.line(name, f"{where}: writable, {format_bytes(free)} free{needs}", full, in_use)
