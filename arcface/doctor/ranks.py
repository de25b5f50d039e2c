"""Ranks: whether their collectives give right values, and how fast."""

import os

from arcface.distributed.process_group import unused_launcher
from arcface.distributed.self_check import round_trip
from arcface.io.report import Report
from arcface.system.hardware import gpus

SECONDS = 60  # to wait for the ranks


def examine_ranks(report: Report, device: str) -> None:
    """Report a round trip over the launcher's ranks or, without a launcher, over ranks that are started for it."""
    launched = "PADDLE_LOCAL_SIZE" in os.environ
    ranks = None
    if not launched and (device == "cpu" or len(gpus()) < 2):
        device, ranks = "cpu", 2
    elif not launched:
        device = device.partition(":")[0]  # a single GPU that was asked for is for a run with one rank
    with report.examining("ranks"):
        found = round_trip(device, ranks, SECONDS)
        if found is None:  # this rank is not rank 0
            return
        if found.ranks == 1:
            report.line("ranks", "only one")
            return
        wrong = f"wrong values from {', '.join(found.wrong)}: train with one rank, and report this" if found.wrong else None
        report.line(
            "ranks",
            f"{found.ranks} on {found.device.partition(':')[0]} over {found.backend}"
            f"{'' if launched else ', started for this test'}: {'' if wrong else 'right values, '}"
            f"all_reduce {1000 * found.small:.2g} ms for 4 B, {1000 * found.large:.2g} ms for 4 MiB",
            wrong,
            unused_launcher(),
        )
