"""What a run's output directory holds, as far as others than the run itself need to know.

    output/
        step_00000190/checkpoint.json    a checkpoint's manifest
        latest -> step_00000190          the current checkpoint
        best -> step_00000150            the one with the highest accuracy

training/checkpoint.py writes it.
"""

import json
import os
from pathlib import Path

from arcface.errors import UserError

MANIFEST = "checkpoint.json"
LATEST, BEST = "latest", "best"


def step_of(directory: Path) -> int:
    """Return the step that a directory's weights are of; 0 where no training run says so (published weights).

    Raises UserError if the manifest is damaged.
    """
    for manifest in (directory / LATEST / MANIFEST, directory / MANIFEST):
        if os.path.exists(manifest):
            try:
                return int(json.loads(manifest.read_bytes())["progress"]["step"])
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise UserError(f"{manifest}: damaged ({error!r}); restore it, or move the .pdparams elsewhere") from error
    return 0


def has_checkpoint(directory: str | Path) -> bool:
    """Whether an output directory contains a checkpoint of this toolkit."""
    return (Path(directory) / LATEST).exists()
