"""Verification of a trained backbone: valid.py's work, plainly or under `python -m paddle.distributed.launch`."""

import platform
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import paddle

from arcface.config import TemplateOptions, ValidConfig
from arcface.data.verification_set import VerificationSet
from arcface.distributed.process_group import busy, rank, ranks_together, world_size
from arcface.errors import UserError
from arcface.inference.embed import Embed
from arcface.inference.engines import candidates, open_agreed
from arcface.io.log import logger, start_log
from arcface.system.device import resolve_device, start_device
from arcface.verification.evaluator import Verification, check_images, verify
from arcface.verification.identification import Identification
from arcface.verification.ijb import IjbProtocol
from arcface.verification.log_lines import log_identification, log_tar_at_far, log_verification
from arcface.verification.roc import tar_at_far
from arcface.verification.sets import TargetSet, read_sets
from arcface.verification.templates import TemplateResult, verify_templates
from arcface.verification.tinyface import TinyFace, identify
from arcface.weights.run_directory import step_of, trained_backbone

# A set with its result, on rank 0.
SetResult = tuple[VerificationSet, Verification] | tuple[IjbProtocol, TemplateResult] | tuple[TinyFace, Identification]


def verify_checkpoint(config: ValidConfig) -> None:
    """Print the verification figures of each set, and write the report if there is to be one.

    Raises:
        UserError: no set is named, or files are missing, damaged or do not fit together.
    """
    device = resolve_device(config.device)
    candidates(config.engine)  # a missing package is reported before anything else
    if not config.val_files:
        raise UserError("--val_targets is empty: name at least one verification set, such as lfw")
    directory, report = Path(config.checkpoint), Path(config.report) if config.report else None
    with ranks_together(config.rank_timeout, partial(start_device, device)):
        with busy("the loading of weights and images"):
            backbone = trained_backbone(directory, config.network, config.embedding_size)
            sets = read_sets(config, config)
            if rank() == 0:
                for one in sets:
                    if isinstance(one, VerificationSet):
                        check_images(one)
                if report:
                    _check_report_directory(report)
            step = step_of(directory)
        if rank() == 0:
            start_log()
            for one in sets:
                if one.kind:
                    logger.info("%s: %s", one.name, one.kind)
        started = time.monotonic()
        with open_agreed(config.engine, backbone, config.network, config.embedding_size) as (engine, embed):
            results = [_verify(embed, one, config.val_batch_size, config, step) for one in sets]
        if report and rank() == 0:
            run = {
                "date": time.strftime("%Y-%m-%d %H:%M:%S"),
                "step": step,
                "engine used": engine,
                "device used": device,
                "ranks": world_size(),
                "seconds": f"{time.monotonic() - started:.0f}",
                "versions": f"paddlepaddle {paddle.__version__}, numpy {np.__version__}, Python {platform.python_version()}",
            }
            _write_report(report, results, run | asdict(config))


def _verify(embed: Embed, one: TargetSet, batch_size: int | None, templates: TemplateOptions, step: int) -> SetResult | None:
    """Verify on one set and write its log lines; returns None on ranks other than 0."""
    if isinstance(one, IjbProtocol):
        scored = verify_templates(embed, one, batch_size, templates)
        if scored is None:
            return None
        log_tar_at_far(one.name, step, tar_at_far(scored.curve))
        if scored.identification:
            log_identification(one.name, step, scored.identification)
        return one, scored
    if isinstance(one, TinyFace):
        found = identify(embed, one, batch_size)
        if found is None:
            return None
        log_identification(one.name, step, found)
        return one, found
    result = verify(embed, one, batch_size)
    if rank():
        return None
    log_verification(one.name, step, result, result.accuracy.mean)
    return one, result


def _check_report_directory(directory: Path) -> None:
    """Raise UserError now rather than after the work if the report could not be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(f"--report {directory}: cannot be written ({error.strerror}); choose another directory") from error


def _write_report(directory: Path, results: list[SetResult | None], settings: dict[str, object]) -> None:
    from arcface.verification.report import SetReport, report_pairs, write_report  # import matplotlib, which takes a second

    reports, identifications = [], {}
    for one in results:
        match one:
            case VerificationSet() as pairs, Verification() as result:
                reports.append(report_pairs(pairs, result))
            case IjbProtocol() as protocol, TemplateResult() as scored:
                reports.append(SetReport(protocol.name, scored.curve))
                if scored.identification:
                    identifications[protocol.name] = scored.identification
            case TinyFace() as protocol, Identification() as found:
                identifications[protocol.name] = found
    logger.info("report: %s", write_report(directory, reports, settings, identifications))
