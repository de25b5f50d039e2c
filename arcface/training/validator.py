"""Verification of a trained backbone. Run it through valid.py, plainly or under `python -m paddle.distributed.launch`."""

import json
from pathlib import Path

from arcface.backbones import create_backbone
from arcface.config import ValidConfig
from arcface.errors import UserError
from arcface.runtime.device import choose_device
from arcface.runtime.distributed import rank, start_ranks
from arcface.training.checkpoint import LATEST, MANIFEST, load_backbone, read_backbone
from arcface.training.monitor import log_verification, start_log
from arcface.verification.bin_file import read_bin
from arcface.verification.evaluator import embedder, verify


def valid(config: ValidConfig) -> None:
    """Print the verification figures of each set; raises UserError for files that are missing or do not fit."""
    choose_device(config.device)
    if not config.val_files:
        raise UserError("--val_targets is empty: name at least one verification set, such as lfw")
    directory = Path(config.checkpoint)
    backbone = create_backbone(config.network, config.embedding_size)
    load_backbone(backbone, read_backbone(directory, config.network), str(directory / f"{config.network}.pdparams"))
    sets = [read_bin(file) for file in config.val_files]
    start_ranks()
    if rank() == 0:
        start_log()
    step = _step(directory)
    embed = embedder(backbone)
    for pairs in sets:
        result = verify(embed, pairs, config.val_batch_size)
        if rank() == 0:
            log_verification(pairs.name, step, result, result.accuracy.mean)


def _step(directory: Path) -> int:
    """Return the step that the weights are of; 0 where no training run says so (published weights)."""
    for manifest in (directory / LATEST / MANIFEST, directory / MANIFEST):
        if manifest.exists():
            return json.loads(manifest.read_bytes())["progress"]["step"]
    return 0
