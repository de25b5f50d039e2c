"""Examination by the doctor, in order: software, ranks, speed, limits, training data, memory, verification sets, directories."""

from arcface.config import TrainConfig
from arcface.distributed.process_group import rank
from arcface.doctor.data import examine_training_data, examine_verification_sets
from arcface.doctor.directories import examine_directories
from arcface.doctor.machine import (
    examine_limits,
    examine_memory,
    examine_ranks,
    examine_software,
    examine_speed,
)
from arcface.io.report import Report


def examine(config: TrainConfig) -> int:
    """Print the report on a training command, on rank 0 only, and return the number of findings.

    Raises UserError for options that contradict one another; what is wrong with machine, files or directories is a finding.
    """
    report, val_files = Report(), config.val_files
    if rank():
        examine_ranks(report, config.device)
        return report.findings
    examine_software(report, config.device, config.engine)
    examine_ranks(report, config.device)
    examine_speed(report)
    examine_limits(report, config.batch_size, config.num_workers)
    report.gap()
    num_classes, contents = examine_training_data(report, config)
    if num_classes:
        examine_memory(report, config, num_classes)
    report.gap()
    examine_verification_sets(report, val_files, contents)
    report.gap()
    examine_directories(report, config, num_classes)
    report.gap()
    report.end()
    return report.findings
