"""The training loop. Run it through train.py, plainly or under `python -m paddle.distributed.launch`."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import paddle

from arcface.config import TrainConfig
from arcface.data.augment import Augmentation
from arcface.data.bin_file import VerificationSet, read_bin
from arcface.data.datasets.base import Dataset, open_dataset
from arcface.data.loader import Batches, load
from arcface.distributed.process_group import all_reduce_sum, busy, heartbeat, rank, ranks_together, world_size
from arcface.errors import UserError
from arcface.inference.engines import candidates, open_agreed, open_engine
from arcface.io.files import atomic_write, check_places
from arcface.io.lock import check_free, locked
from arcface.io.log import logger, start_log
from arcface.system.device import choose_device
from arcface.system.startup import ranks_here
from arcface.system.terminal import output_may_be_lost
from arcface.training.checkpoint import Checkpoint, save
from arcface.training.legacy import RankFiles, has_only_rank_files
from arcface.training.log import METRICS_FILE, Monitor, Progress
from arcface.training.machines import check_same_data, check_shared
from arcface.training.memory import check_memory, out_of_memory_explained
from arcface.training.model import Model
from arcface.training.schedule import Schedule
from arcface.training.signals import Interruptions
from arcface.verification.evaluator import Verification, check_images, verify
from arcface.weights.state_dict import load_backbone, read_state_dict


def train(config: TrainConfig) -> None:
    """Train until num_epoch or max_steps.

    Raises UserError for what the user can fix. Options, data set and checkpoint are checked before anything is written.
    """
    device = choose_device(config.device)
    candidates(config.engine)  # a missing package is told before anything else
    with output_may_be_lost(), out_of_memory_explained(config), ranks_together(config.rank_timeout):
        with busy("reading the data"):
            source, batches, sets, best_by = _open_data(config)
            warning = check_memory(config, source.num_classes, world_size(), ranks_here(), device)
        check_same_data(source, config.data_dir)
        if rank() == 0:
            with busy("checking the images"):
                source.scan(config.scan_images)
                for pairs in sets:
                    check_images(pairs)
        _train(config, device, source, batches, sets, best_by, warning)


def _open_data(config: TrainConfig) -> tuple[Dataset, Batches, list[VerificationSet], str | None]:
    """Open what is trained and verified on; returns the name of the set that decides which checkpoint is best, too."""
    source = open_dataset(config.data_dir, config.label_file, config.num_classes, bool(config.outside_paths))
    augmentation = Augmentation(
        config.augment_photometric, config.augment_low_resolution, config.augment_crop, config.augment_occlusion
    )
    batches = Batches(source, config.batch_size, config.seed, rank(), world_size(), config.shuffle, config.sampling, augmentation)
    sets = [_read_set(file) for file in config.val_files]
    best_by = _best_by(config, sets)
    return source, batches, sets, best_by


def _train(
    config: TrainConfig,
    device: str,
    source: Dataset,
    batches: Batches,
    sets: list[VerificationSet],
    best_by: str | None,
    warning: str | None,
) -> None:
    output, logdir = Path(config.output), Path(config.logdir)
    identity = _identity(config, source)
    model = Model(config, source.num_classes)
    if config.init_from and not config.resume:
        load_backbone(model.backbone, read_state_dict(Path(config.init_from)), config.init_from)
    progress, missing = _resume(output, identity, model) if config.resume else (Progress(), [])
    engine = _agreed_engine(model, config) if sets else config.engine  # what cannot be built is found now, not after hours
    schedule = Schedule(config, batches.steps_per_epoch)
    last_step = min(schedule.total_steps, config.max_steps or schedule.total_steps)
    bad_images = set()
    with (
        _started_output(output, logdir),
        Interruptions() as interruptions,
        Monitor(
            progress, batches.steps_per_epoch, last_step, config.batch_size, config.log_interval, logdir, reports=rank() == 0
        ) as monitor,
    ):
        _announce(config, source, schedule, device, progress, last_step, missing, warning)
        model.use_cpu_kernels()
        for images, labels in monitor.waiting_for(load(batches, progress.step, last_step, config.num_workers), config.num_workers):
            for index, complaint in batches.complaints(progress.step, labels.numpy()).items():
                logger.warning("not in the loss: %s", complaint)
                bad_images.add(index)

            heartbeat(f"step {progress.step + 1}")
            lr = schedule(progress.step)
            loss = model.compute_gradients(images.to(device), labels.to(device), progress.step)
            agreed = interruptions.agree(model.is_finite(loss))
            if agreed.bad_step:
                _count_skipped(config, progress, batches, lr, loss, model.find_nonfinite(loss))
                model.drop_gradients()
            else:
                model.update(lr)
            if monitor.step_done(None if agreed.bad_step else loss, lr):
                _check_bad_images(len(bad_images), config.max_bad_images)

            step, new_best = progress.step, False
            # Whoever stops a run may not wait for a verification.
            if step == last_step or (config.val_interval and step % config.val_interval == 0 and not agreed.stop):
                with monitor.paused():
                    model.broadcast_buffers()
                    for pairs, result in _verify(engine, model, sets, config):
                        new_best |= monitor.verified(pairs.name, result) and pairs.name == best_by
            save_due = (
                step == last_step
                or step % batches.steps_per_epoch == 0
                or bool(config.save_interval)
                and step % config.save_interval == 0
            )
            if save_due or new_best or agreed.save or agreed.stop:
                heartbeat(f"the checkpoint of step {step}")
                with monitor.paused():
                    monitor.read_loss()
                    progress.saved += save_due
                    keep = save_due and bool(config.keep_every) and progress.saved % config.keep_every == 0
                    manifest = {"identity": identity, "progress": asdict(progress), "options": asdict(config)}
                    try:
                        save(output, config.network, model.state(), model.head.shard, step, manifest, new_best, keep)
                    except UserError as error:
                        if config.on_save_error == "stop" or agreed.stop or step == last_step:
                            raise
                        logger.error("%s", error)
            if agreed.stop and step < last_step:
                logger.info("stopped by a signal after step %d, which is saved; the same command with --resume 1 goes on", step)
                break


def _read_set(file: Path) -> VerificationSet:
    try:
        return read_bin(file)
    except UserError as error:
        if os.path.lexists(file):
            raise
        raise UserError(f"{error}, or train without verification: --val_targets ''") from error


def _agreed_engine(model: Model, config: TrainConfig) -> str:
    with open_agreed(config.engine, model.backbone, config.network, config.embedding_size) as (name, _):
        return name


def _verify(
    engine: str, model: Model, sets: list[VerificationSet], config: TrainConfig
) -> Iterator[tuple[VerificationSet, Verification]]:
    """Yield each set with its result for the weights of this moment; the engine is gone afterwards."""
    if sets:
        with open_engine(engine, model.backbone, config.network, config.embedding_size) as embed:
            for pairs in sets:
                yield pairs, verify(embed, pairs, config.val_batch_size)


def _best_by(config: TrainConfig, sets: list[VerificationSet]) -> str | None:
    """Return the name of the set by which checkpoints are compared; raises UserError if it is none of the sets."""
    names = [pairs.name for pairs in sets]
    if config.best_by is None:
        return names[0] if names else None
    if config.best_by not in names:
        raise UserError(f"--best_by {config.best_by}: not among --val_targets ({', '.join(names) or 'none'}); name one of them")
    return config.best_by


def _identity(config: TrainConfig, source: Dataset) -> dict:
    """What must be the same when a run is resumed."""
    return {
        "network": config.network,
        "embedding_size": config.embedding_size,
        "num_classes": source.num_classes,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "shuffle": config.shuffle,
        "sampling": config.sampling,
        "images": len(source),
        "identities": int(source.labels.max()) + 1,
        "labels": hashlib.sha256(source.labels.tobytes()).hexdigest(),
    }


def _resume(output: Path, identity: dict, model: Model) -> tuple[Progress, list[str]]:
    """Load the checkpoint in `output` into the model; return how far it is, and what it lacks."""
    checkpoint = RankFiles(output) if has_only_rank_files(output) else Checkpoint(output)
    checkpoint.check_identity(identity)
    model.load(checkpoint.load(identity["network"], model.head.shard), str(checkpoint.directory))
    if isinstance(checkpoint, RankFiles):
        return Progress(), checkpoint.missing
    return Progress(**checkpoint.manifest["progress"]), []


@contextmanager
def _started_output(output: Path, logdir: Path) -> Iterator[None]:
    """Hold the directories that the run writes into, see that all ranks share the output, and start its log."""
    log = output / "training.log"
    with ExitStack() as held:
        if rank() == 0:
            for directory, option in ((output, "--output"), (logdir, "--logdir")):
                check_free(directory, option)  # before anything is made; `locked` decides
            with _told_of_unwritable(output, logdir):
                check_places([output, logdir], [log, logdir / METRICS_FILE])
                for directory in (output, logdir):
                    directory.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(output, "--output"))
                if not os.path.samefile(output, logdir):
                    held.enter_context(locked(logdir, "--logdir"))
        check_shared(output)
        if rank() == 0:
            with _told_of_unwritable(output, logdir):
                start_log(log)
        yield


@contextmanager
def _told_of_unwritable(output: Path, logdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output {output} and --logdir {logdir}: {error.filename} cannot be written"
            f" ({error.strerror}); choose another directory"
        ) from error


def _count_skipped(
    config: TrainConfig, progress: Progress, batches: Batches, lr: float, loss: paddle.Tensor, bad_tensor: str | None
) -> None:
    """Write down what is known of a step that is not taken, and count it.

    Raises UserError, on every rank, if no more steps may be skipped. `bad_tensor` is None where another rank found one.
    """
    step = progress.step + 1
    file = Path(config.output) / f"nonfinite_step_{step:08d}_rank_{rank()}.json"
    known = {
        "step": step,
        "rank": rank(),
        "bad_tensor": bad_tensor,
        "loss": repr(loss.item()),
        "learning_rate": lr,
        "scale": config.scale,
        "images": batches.names(progress.step),
    }
    try:
        with atomic_write(file) as opened:  # a run that was resumed may be at the same step again
            opened.write(json.dumps(known, indent=2).encode())
    except OSError as error:
        logger.error("%s: cannot be written (%s)", file, error.strerror)
    what = f"{bad_tensor or 'a tensor of another rank'} is not finite at step {step} (rate {lr:g}, scale {config.scale:g}; {file})"
    progress.skipped += 1
    allowed = int(config.on_nonfinite.partition(":")[2] or 0)
    if progress.skipped > allowed:
        raise UserError(
            f"{what}; nothing was updated, and the last checkpoint is as it was: lower --lr, lengthen"
            " --warmup_epoch or set --clip_norm, and resume"
        )
    logger.warning("%s; skipped, %d of %d", what, progress.skipped, allowed)


def _announce(
    config: TrainConfig,
    source: Dataset,
    schedule: Schedule,
    device: str,
    progress: Progress,
    last_step: int,
    missing: list[str],
    warning: str | None,
) -> None:
    if rank():
        return
    if warning:
        logger.warning("%s", warning)
    if (fillers := config.batch_size - len(source)) > 0:
        logger.warning(
            "--batch_size %d is more than the %d images of %s: in each step %d places are fillers that take time and"
            " memory and do not count; take --batch_size %d or less",
            config.batch_size,
            len(source),
            source.file,
            fillers,
            len(source) // world_size() * world_size() or world_size(),
        )
    if missing:
        logger.warning("%s holds weights only: begun anew are %s", config.output, ", ".join(missing))
    logger.info("paddlepaddle %s on %s, %d ranks", paddle.__version__, device, world_size())
    logger.info("%d images of %d people in %s", len(source), source.num_classes, source.file)
    logger.info(
        "learning rate %g after the warm-up (--lr %g for a batch of 512, scaled to %d)", schedule.peak, config.lr, config.batch_size
    )
    if progress.step >= last_step:
        logger.info("nothing left to train: the checkpoint is of step %d, the last is %d", progress.step, last_step)
    else:
        logger.info("steps %d to %d, %d an epoch", progress.step + 1, last_step, schedule.steps_per_epoch)
    if not config.resume and (Path(config.output) / "latest").exists():
        logger.warning("%s holds a checkpoint, which this run's first one will replace; --resume 1 goes on from it", config.output)


def _check_bad_images(of_this_rank: int, limit: int) -> None:
    """Raise UserError on every rank if the ranks together met too many unreadable images; called by every rank."""
    count = int(all_reduce_sum(paddle.to_tensor([of_this_rank], "int64")).item())
    if count > limit:
        raise UserError(f"{count} unreadable images, more than --max_bad_images {limit}; see the warnings in the ranks' logs")
