"""The training loop. Run it through train.py, plainly or under `python -m paddle.distributed.launch`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import paddle

from arcface.backbones.precision import check_precision
from arcface.config import TrainConfig
from arcface.distributed.process_group import busy, heartbeat, rank, ranks_together, world_size
from arcface.inference.engines import candidates
from arcface.system.device import resolve_device, search_convolutions, start_device
from arcface.system.startup import ranks_here
from arcface.system.terminal import survive_closed_output
from arcface.training.announcement import announce
from arcface.training.data import TrainingData
from arcface.training.log import TrainLog
from arcface.training.memory import check_memory, out_of_memory_explained
from arcface.training.model import Model
from arcface.training.output import opened_output
from arcface.training.patience import Patience
from arcface.training.profile import Profile
from arcface.training.saver import CheckpointSaver, restore
from arcface.training.schedule import Schedule
from arcface.training.signals import Signals
from arcface.training.state import TrainState, fingerprint_of
from arcface.training.steps import Steps
from arcface.verification.sets import read_pair_sets
from arcface.verification.verifier import Verifier
from arcface.weights.state_dict import read_state_dict


def train(config: TrainConfig) -> None:
    """Train until num_epoch or max_steps.

    Raises UserError for what the user can fix. Options, dataset and checkpoint are checked before anything is written.
    """
    device = resolve_device(config.device)
    check_precision(config.precision, bool(config.precision_emulation), device)
    candidates(config.engine)  # a missing package is told before anything else
    with survive_closed_output(), out_of_memory_explained(config), _opened(config, device) as data:
        with busy("the loading of the data"):
            verifier = Verifier(read_pair_sets(config), config, config, config.val_interval, config.best_by)
            memory_warning = check_memory(config, data.dataset.num_classes, world_size(), ranks_here(), device)
        data.check_same_on_all_ranks()
        if rank() == 0:
            with busy("the check of the images"):
                data.scan()
                verifier.check_images()
        _train(config, data, verifier, memory_warning)


@contextmanager
def _opened(config: TrainConfig, device: str) -> Iterator[TrainingData]:
    """Open the training data, join the other ranks, and start the device.

    In this order: a process that has threads, as of the watchdog or of CUDA, is not safe to fork, which the data's workers are.
    """
    joined = partial(ranks_together, config.rank_timeout, partial(start_device, device))
    with ExitStack() as stack:
        try:
            data = stack.enter_context(TrainingData(config, config.data_dir, config.batch_size, config.seed))
        except Exception:
            with joined():  # where the other ranks hear of it
                raise
        # Outside of `joined`, which tells the other ranks of what is raised for lack of memory.
        with out_of_memory_explained(config, data.dataset.num_classes, world_size(), device), joined():
            yield data


def _train(config: TrainConfig, data: TrainingData, verifier: Verifier, memory_warning: str | None) -> None:
    if config.cudnn_search:
        search_convolutions()
    fingerprint = fingerprint_of(config, data.dataset)
    model = Model(config, config, config, data.dataset.num_classes, config.seed)
    state, missing = TrainState(), list[str]()
    if config.resume:
        state, missing = restore(Path(config.output), fingerprint, model)
    elif config.init_from:
        model.start_from(read_state_dict(Path(config.init_from)), config.init_from)
    verifier.choose_engine(model.backbone)  # what cannot be built is found now, not after hours
    schedule = Schedule(config, data.steps_per_epoch)
    last_step = min(schedule.total_steps, config.max_steps or schedule.total_steps)
    saver = CheckpointSaver(config, model, state, fingerprint, data.steps_per_epoch)
    patience = Patience(config, state, verifier.best_by)
    profile = Profile(config.profile, Path(config.logdir), state.step, last_step)

    with (
        opened_output(Path(config.output), Path(config.logdir)),
        Signals() as signals,
        TrainLog(config, state, data, last_step, verifier.best_by) as log,
        profile,
    ):
        announce(config, data, model, schedule, state, last_step, missing, memory_warning)
        model.use_cpu_kernels()

        def verify() -> bool:
            new_best = log.verification(verifier.run(model.broadcast_buffers()))
            patience.count(new_best)
            return new_best

        if state.unverified:
            state.unverified = False
            new_best = verify()
            if new_best or patience.over:
                saver.save(False, best=new_best, must_succeed=patience.over)
        steps = Steps(config, model, signals, data, state, run_ahead=paddle.get_device() != "cpu")
        for batch in data.batches(state.step, state.step if patience.over else last_step):
            step, lr = state.step + 1, schedule(state.step)
            heartbeat(f"step {step}")
            profile.step(step)
            last = step == last_step
            verification_due = verifier.due(step, last)
            ends_now = log.due(step) or verification_due or saver.due(step, last)
            loss, asked = steps.take(batch, lr, ends_now)
            state.step = step
            log.step(loss, lr)

            state.unverified = verification_due and asked.stop and not last  # there may be no time for it
            new_best = verification_due and not state.unverified and verify()
            ends = asked.stop or patience.over
            scheduled = saver.due(step, last)
            if scheduled or new_best or asked.save or ends:
                with log.paused():
                    saver.save(scheduled, best=new_best, must_succeed=last or ends)
            if ends and not last:
                if asked.stop:
                    log.stopped()
                break
        if patience.over and state.step < last_step:
            patience.log_end()
