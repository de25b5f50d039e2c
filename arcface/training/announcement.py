"""The first lines of a run's log: what is trained, on what, from where to where."""

import paddle

from arcface.config import TrainConfig
from arcface.distributed.process_group import rank, world_size
from arcface.io.log import logger
from arcface.training.data import TrainingData
from arcface.training.model import Model
from arcface.training.schedule import Schedule
from arcface.training.state import TrainState
from arcface.weights.run_directory import has_checkpoint


def announce(
    config: TrainConfig,
    data: TrainingData,
    model: Model,
    schedule: Schedule,
    state: TrainState,
    last_step: int,
    missing: list[str],
    memory_warning: str | None,
) -> None:
    """Write them, on rank 0. `missing`: what the checkpoint that is resumed lacks, in words."""
    if rank():
        return
    dataset = data.dataset
    if memory_warning:
        logger.warning("%s", memory_warning)
    if (padding := config.batch_size - len(dataset)) > 0:
        logger.warning(
            "--batch_size %d is more than the %d images of %s: in each step %d places are padding that takes time and"
            " memory and does not count; use --batch_size %d or less",
            config.batch_size,
            len(dataset),
            dataset.file,
            padding,
            len(dataset) // world_size() * world_size() or world_size(),
        )
    if missing:
        contains = "contains weights only" if "the step" in missing else "is of a run with other options"
        logger.warning("%s %s: these start anew: %s", config.output, contains, ", ".join(missing))
    ranks = f"{world_size()} rank{'s' if world_size() > 1 else ''}"
    logger.info("paddlepaddle %s on %s, %s", paddle.__version__, paddle.get_device(), ranks)
    if config.precision != "float32":
        how = "emulated, without the CPU kernels for the backbone" if config.precision_emulation else "where its layers allow it"
        logger.info("the backbone trains in %s, %s", config.precision, how)
    logger.info("%d images of %d identities in %s", len(dataset), dataset.num_classes, dataset.file)
    logger.info(
        "learning rate %g after the warm-up (--lr %g for a batch of 512, scaled to %d)", schedule.peak, config.lr, config.batch_size
    )
    if config.freeze:
        logger.info("--freeze %s: %d of the backbone's %d parameters are trained", config.freeze, *model.trained_of)
    if state.step >= last_step:
        logger.info("already complete: checkpoint at step %d of %d", state.step, last_step)
    else:
        logger.info("steps %d to %d, %d an epoch", state.step + 1, last_step, schedule.steps_per_epoch)
    if not config.resume and has_checkpoint(config.output):
        logger.warning(
            "%s contains a checkpoint, which this run's first one will replace; --resume 1 continues from it", config.output
        )
