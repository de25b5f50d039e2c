"""Profile: a trace of a few steps of training, as a file for Perfetto and chrome://tracing."""

import json
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import paddle
from paddle import profiler

from arcface.distributed.process_group import rank
from arcface.errors import UserError
from arcface.io.log import logger
from arcface.system.hardware import gpu_count


def can_record() -> bool:
    """Whether Paddle's profiler works here: built for GPUs, it asks CUDA's driver, also on a CPU."""
    return not paddle.device.is_compiled_with_cuda() or gpu_count() > 0


class Profile(AbstractContextManager):
    """Records the steps of --profile FIRST:END on rank 0, whose collectives show the wait for the others. Use around the loop.

    The trace contains the operators of the CPU and, on a GPU, its kernels and copies. It goes to profile_<first>_<end>.json in
    --logdir, of which rank 0 is the owner; a run that ends within the window writes the steps that it took, one that fails none.
    Outside the window nothing is recorded, and no step is slower.
    """

    def __init__(self, window: str | None, logdir: Path, done: int, last_step: int):
        """`window`: the option, or None; `done`: steps that the run resumes from.

        Raises UserError for a window that begins after the last step, or where nothing can be recorded; a window that lies before
        the resumed steps is a warning, for the same command resumes a run.
        """
        first, end = map(int, window.split(":")) if window else (0, 0)
        if first > last_step:
            raise UserError(f"--profile {window}: the run ends with step {last_step}; choose earlier steps")
        if window and not can_record():
            raise UserError(
                f"--profile {window}: this Paddle is built for GPUs, and records nothing without an NVIDIA driver; leave the option"
                " out, or use a Paddle that is built for CPU"
            )
        self._window, self._done = range(first, end if rank() == 0 else first), done
        self._file = logdir / f"profile_{first}_{end}.json"
        self._recording: profiler.Profiler | None = None
        self._steps: list[int] = []  # that are recorded
        self._wanted = True  # the trace; False once the run has failed

    def __enter__(self) -> "Profile":
        if self._window and self._window[-1] <= self._done:
            first, end = self._window[0], self._window.stop
            logger.warning("--profile %d:%d: nothing is recorded, as the run continues after step %d", first, end, self._done)
        return self

    def step(self, step: int) -> None:
        """Begin a step, counted from 1."""
        if step not in self._window:
            self._write()
            return
        if self._recording:
            self._recording.step()
        else:
            cpu, gpu = profiler.ProfilerTarget.CPU, profiler.ProfilerTarget.GPU
            targets = [cpu] if paddle.get_device() == "cpu" else [cpu, gpu]
            self._recording = profiler.Profiler(targets=targets, on_trace_ready=self._export)
            self._recording.start()  # waits for what a GPU has queued
        self._steps.append(step)

    def __exit__(self, kind, *exception) -> None:
        if kind is None:
            self._write()
        elif self._recording:
            self._wanted = False
            with suppress(OSError, RuntimeError):  # of a GPU that has failed; the run's own error is shown
                self._recording.stop()
            self._recording = None  # Paddle makes no other while there is one

    def _export(self, recorded: profiler.Profiler) -> None:
        if self._wanted:
            recorded.export(str(self._file))

    def _write(self) -> None:
        if not self._recording:
            return
        recording, self._recording = self._recording, None
        try:
            self._file.unlink(missing_ok=True)
            recording.stop()
            json.loads(self._file.read_bytes())  # Paddle does not tell of a file that it cannot write
        except (OSError, ValueError) as error:
            logger.warning("%s: the trace cannot be written (%s)", self._file, getattr(error, "strerror", None) or "incomplete")
            return
        steps = f"steps {self._steps[0]} to {self._steps[-1]}" if len(self._steps) > 1 else f"step {self._steps[0]}"
        logger.info("trace of %s: %s; open it in https://ui.perfetto.dev or chrome://tracing", steps, self._file)
