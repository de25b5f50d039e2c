"""The checks of the doctor, in order: software, ranks, machine, training data, verification sets, directories."""

from arcface.config import TrainConfig
from arcface.distributed.process_group import rank
from arcface.doctor.data import examine_training_data, examine_verification_sets
from arcface.doctor.directories import examine_directories
from arcface.doctor.machine import examine_limits, examine_memory, examine_speed
from arcface.doctor.ranks import examine_ranks
from arcface.doctor.software import examine_software
from arcface.io.report import Report


def examine(config: TrainConfig) -> int:
    """Print a report for a training command on rank 0, and return the number of findings.

    Problems of machine, files and directories are findings; raises UserError for wrong options.
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
    num_classes, hashes = examine_training_data(report, config)
    if num_classes:
        examine_memory(report, config, num_classes)
    report.gap()
    examine_verification_sets(report, val_files, hashes, config)
    report.gap()
    examine_directories(report, config, num_classes)
    report.gap()
    report.end()
    return report.findings
