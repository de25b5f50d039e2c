"""TrainState: how far a run is; and the fingerprint of a run: what a checkpoint must have been trained with to be resumed."""

import hashlib
import uuid
from dataclasses import dataclass, field

from arcface.config import TrainConfig
from arcface.data.datasets.base import Dataset


@dataclass
class TrainState:
    """How far a run is; every checkpoint contains all of it, as `progress`.

    step: steps done, over all epochs. loss_sum, loss_count: of the steps since the last log line. saved: scheduled checkpoints,
    without those for a signal or a new best. skipped: steps that were not taken, since loss or gradient was not finite.
    highest: the best accuracy on each verification set. best_step: the step of the last new best. without_best: verifications
    since then. unverified: a signal ended the run in place of this step's verification, which is done when the run resumes. run:
    tells the records of runs in one logdir apart. loss_scale, steps_at_scale: see loss_scale.py.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    saved: int = 0
    skipped: int = 0
    highest: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    without_best: int = 0
    unverified: bool = False
    loss_scale: float = 2.0**16
    steps_at_scale: int = 0
    run: str = field(default_factory=lambda: uuid.uuid4().hex)


def fingerprint_of(config: TrainConfig, dataset: Dataset) -> dict:
    """Return what must be the same when a run is resumed; checkpoints contain it as `identity`."""
    return {
        "network": config.network,
        "embedding_size": config.embedding_size,
        "num_classes": dataset.num_classes,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "shuffle": config.shuffle,
        "sampling": config.sampling,
        "images": len(dataset),
        "identities": int(dataset.labels.max()) + 1,
        "labels": hashlib.sha256(dataset.labels.tobytes()).hexdigest(),
    }
