"""Steps whose loss or gradient is not finite: a record of each, which is then skipped, or the run stops."""

import json
from pathlib import Path

from arcface.config import RunOptions
from arcface.distributed.process_group import rank
from arcface.errors import UserError
from arcface.io.files import atomic_write
from arcface.io.log import logger
from arcface.training.data import TrainingData
from arcface.training.model import Computed, Model
from arcface.training.state import TrainState


def skip_or_stop(
    options: RunOptions, model: Model, state: TrainState, data: TrainingData, step: int, lr: float, computed: Computed
) -> None:
    """Count a step that was not taken, if --on_nonfinite allows it; every rank calls it, and the weights are those of the step.

    The first tensor that is not finite, the rate and the images go to nonfinite_step_<step>_rank_<rank>.json in --output. Raises
    UserError, on every rank, if no more steps may be skipped.
    """
    culprit = model.find_nonfinite(computed)  # None where another rank found one
    file = Path(options.output) / f"nonfinite_step_{step:08d}_rank_{rank()}.json"
    known = {
        "step": step,
        "rank": rank(),
        "bad_tensor": culprit,
        "loss": repr(computed.loss.item()),
        "learning_rate": lr,
        "scale": model.head.scale,
        "images": data.names(step - 1),
    }
    try:
        with atomic_write(file) as opened:  # a resumed run may be at the same step again
            opened.write(json.dumps(known, indent=2).encode())
    except OSError as error:
        logger.error("%s: cannot be written (%s)", file, error.strerror)
    what = f"{culprit or 'a tensor of another rank'} is not finite at step {step} (rate {lr:g}, scale {model.head.scale:g}; {file})"
    state.skipped += 1
    allowed = int(options.on_nonfinite.partition(":")[2] or 0)
    if state.skipped > allowed:
        raise UserError(
            f"{what}; the weights were not updated and the last checkpoint is intact; lower --lr, lengthen"
            " --warmup_epoch or set --clip_norm, then --resume 1"
        )
    logger.warning("%s; skipped, %d of %d", what, state.skipped, allowed)
