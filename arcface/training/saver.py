"""CheckpointSaver: when a checkpoint is due, which are kept, and what happens if one cannot be written; and how a run resumes."""

from dataclasses import asdict
from pathlib import Path

from arcface.config import RunOptions, TrainConfig
from arcface.distributed.process_group import heartbeat
from arcface.errors import UserError
from arcface.io.log import logger
from arcface.training.checkpoint import Checkpoint, save
from arcface.training.legacy import RankFiles, has_only_rank_files
from arcface.training.model import Model
from arcface.training.state import TrainState


class CheckpointSaver:
    """Writes the checkpoints of a run into --output.

    `fingerprint` is that of the run; `config`, all its options, is written beside it.
    """

    def __init__(self, config: TrainConfig, model: Model, state: TrainState, fingerprint: dict, steps_per_epoch: int):
        self._options: RunOptions = config
        self._model, self._state, self._steps_per_epoch = model, state, steps_per_epoch
        self._network, self._fingerprint, self._all_options = config.network, fingerprint, asdict(config)

    def due(self, step: int, last: bool) -> bool:
        """Whether a checkpoint is scheduled after a step: the last, an epoch's end, or every --save_interval steps."""
        interval = self._options.save_interval
        return last or step % self._steps_per_epoch == 0 or bool(interval) and step % interval == 0

    def save(self, scheduled: bool, best: bool, must_succeed: bool) -> None:
        """Write the checkpoint of this step; every rank calls it.

        Every --keep_every-th scheduled one is kept permanently. Raises UserError if it cannot be written and must be, or if
        --on_save_error is stop.
        """
        options, state = self._options, self._state
        heartbeat(f"the checkpoint of step {state.step}")
        state.saved += scheduled
        keep = scheduled and bool(options.keep_every) and state.saved % options.keep_every == 0
        manifest = {"identity": self._fingerprint, "progress": asdict(state), "options": self._all_options}
        output = Path(options.output)
        try:
            save(output, self._network, self._model.state(), self._model.head.shard, state.step, manifest, best, keep)
        except UserError as error:
            if options.on_save_error == "stop" or must_succeed:
                raise
            logger.error("%s", error)


def restore(output: Path, fingerprint: dict, model: Model) -> tuple[TrainState, list[str]]:
    """Load the checkpoint in `output` into the model; return its state, and what it lacks, in words.

    Raises UserError if there is none, if it is damaged, or if a run with another fingerprint wrote it.
    """
    checkpoint = RankFiles(output) if has_only_rank_files(output) else Checkpoint(output)
    checkpoint.check_fingerprint(fingerprint)
    missing = model.load(checkpoint.load(fingerprint["network"], model.head.shard), str(checkpoint.directory))
    if isinstance(checkpoint, RankFiles):
        return TrainState(), checkpoint.missing + missing
    return TrainState(**checkpoint.manifest["progress"]), missing
