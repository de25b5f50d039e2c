"""Verification of a trained backbone. Run it through valid.py, plainly or under `python -m paddle.distributed.launch`."""

import os
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import paddle

from arcface.backbones import create_backbone
from arcface.config import ValidConfig
from arcface.data.bin_file import VerificationSet, read_bin
from arcface.distributed.process_group import busy, rank, ranks_together, world_size
from arcface.errors import UserError
from arcface.inference.engines import candidates, open_agreed
from arcface.io.log import logger, start_log
from arcface.system.device import choose_device
from arcface.verification.evaluator import Embed, check_images, embed_plain_and_flipped, verify
from arcface.verification.ijb import IjbProtocol, load_image, read_protocol
from arcface.verification.log_lines import log_tar_at_far, log_verification
from arcface.verification.metrics import tar_at_far
from arcface.verification.templates import aggregate, image_features, score
from arcface.weights.run_directory import step_of
from arcface.weights.state_dict import find_backbone, load_backbone, read_backbone


def valid(config: ValidConfig) -> None:
    """Print the verification figures of each set; raises UserError for files that are missing or do not fit."""
    device = choose_device(config.device)
    candidates(config.engine)  # a missing package is told before anything else
    if not config.val_files:
        raise UserError("--val_targets is empty: name at least one verification set, such as lfw")
    directory = Path(config.checkpoint)
    with ranks_together(config.rank_timeout):
        with busy("reading the weights and the images"):
            backbone = create_backbone(config.network, config.embedding_size)
            load_backbone(backbone, read_backbone(directory, config.network), str(find_backbone(directory, config.network)))
            sets = [_read_set(file, config) for file in config.val_files]
            if config.report:
                _check_report_directory(Path(config.report))
            step = step_of(directory)
        _verify_all(config, device, backbone, sets, step)


def _verify_all(
    config: ValidConfig,
    device: str,
    backbone: paddle.nn.Layer,
    sets: list[VerificationSet | IjbProtocol],
    step: int,
) -> None:
    if rank() == 0:
        start_log()
    reports, started = [], time.monotonic()
    with open_agreed(config.engine, backbone, config.network, config.embedding_size) as (engine, embed):
        for one in sets:
            if isinstance(one, IjbProtocol):
                reports += _verify_templates(embed, one, config, step)
            else:
                reports += _verify_pairs(embed, one, config, step)
    if config.report and rank() == 0:
        settings = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "step": step,
            "engine used": engine,
            "device used": device,
            "ranks": world_size(),
            "seconds": f"{time.monotonic() - started:.0f}",
            "versions": f"paddlepaddle {paddle.__version__}, numpy {np.__version__}, Python {platform.python_version()}",
            **asdict(config),
        }
        from arcface.verification.report import write_report

        logger.info("report: %s", write_report(Path(config.report), reports, settings))


def _read_set(file: Path, config: ValidConfig) -> VerificationSet | IjbProtocol:
    """Read a .bin set or, where there is none of the name, a directory of an IJB-style protocol."""
    directory = file.with_suffix("")
    if os.path.exists(file) or not os.path.isdir(directory):
        pairs = read_bin(file)
        if rank() == 0:
            check_images(pairs)
        return pairs
    protocol = read_protocol(directory)
    if config.template_detector_score and protocol.detector_scores is None:
        raise UserError(
            f"{directory}: has no detector scores (meta/{protocol.name}_name_5pts_score.txt);"
            " add the file, or leave them out with --template_detector_score 0"
        )
    return protocol


def _verify_pairs(embed: Embed, pairs: VerificationSet, config: ValidConfig, step: int) -> list:
    result = verify(embed, pairs, config.val_batch_size)
    if rank():
        return []
    log_verification(pairs.name, step, result, result.accuracy.mean)
    if not config.report:
        return []
    from arcface.verification.report import report_pairs  # imports matplotlib, which takes a second

    return [report_pairs(pairs, result)]


def _verify_templates(embed: Embed, protocol: IjbProtocol, config: ValidConfig, step: int) -> list:
    plain, flipped = embed_plain_and_flipped(
        embed, lambda index: load_image(protocol, index), len(protocol.images), config.val_batch_size, protocol.name
    )
    if rank():
        return []
    features = image_features(
        plain,
        flipped,
        protocol.detector_scores,
        flip=bool(config.template_flip),
        norm_score=bool(config.template_norm_score),
        detector_score=bool(config.template_detector_score),
    )
    curve = score(protocol.pairs_file, *aggregate(features, protocol.templates, protocol.media))
    log_tar_at_far(protocol.name, step, tar_at_far(curve))
    if not config.report:
        return []
    from arcface.verification.report import SetReport

    return [SetReport(protocol.name, curve)]


def _check_report_directory(directory: Path) -> None:
    """Raise UserError now rather than after the work if the report could not be written."""
    try:
        if rank() == 0:
            directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(f"--report {directory}: cannot be written ({error.strerror}); choose another directory") from error
