"""Counts Paddle's kernel calls, with the fills of cleared gradients, on a CPU: on a GPU each is a launch or less."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import paddle
import pytest
from paddle import profiler

from arcface.training.profile import can_record

KERNEL = re.compile(r"(\w+) (?:kernel launch|compute)\[")  # as Paddle 3.3 and 2.6 name such an event
CANNOT_RECORD = "a Paddle for GPUs records no kernels without a driver"
FILL = "fill of a gradient"


@contextmanager
def kernel_calls() -> Iterator[list[str]]:
    """In a `with` block: a list that has, behind the block, the names of the kernels that it has called; an error if none.

    Paddle records them for its profiler, except the fills of `clear_grad(set_to_zero=True)`. Views, such as slices, are among them.
    The test is skipped where nothing can be recorded.
    """
    if not can_record():
        pytest.skip(CANNOT_RECORD)
    calls: list[str] = []
    clear = paddle.Tensor.clear_gradient  # Paddle's optimizers clear their parameters' gradients with it

    def counted(tensor, set_to_zero=True):
        calls.extend([FILL] * (set_to_zero and tensor.grad is not None))
        clear(tensor, set_to_zero)

    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recording = profiler.Profiler(
            targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda done: done.export(str(trace), format="json")
        )
        with mock.patch.object(paddle.Tensor, "clear_gradient", counted), recording:
            yield calls
        events = json.loads(trace.read_text())["traceEvents"]
    kernels = [match[1] for event in events if (match := KERNEL.match(event.get("name", "")))]
    if not kernels:
        raise RuntimeError("Paddle's profiler names no kernels the way this counter knows: it would count 0 of any number")
    calls.extend(kernels)
