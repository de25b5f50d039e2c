"""The order in which a GPU trains, on the CPU: it ends where the order of a CPU ends, and waits for the device once a step."""

import functools
import json
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import paddle
import pytest
from kernel_calls import kernel_calls
from tiny_backbone import Tiny

from arcface.config import TrainConfig
from arcface.errors import UserError
from arcface.head import unit
from arcface.head.partial_fc import PartialFC
from arcface.system import transfer
from arcface.training import data as training_data
from arcface.training import loss_scale
from arcface.training import model as model_module
from arcface.training import steps as training_steps
from arcface.training.data import TrainingData
from arcface.training.model import Model
from arcface.training.signals import Request, Signals
from arcface.training.state import TrainState
from arcface.training.steps import Steps

IMAGES, CLASSES, BATCH_SIZE = 28, 7, 4
READS = ["numpy", "item", "tolist", "cpu", "to", "__array__", "__bool__", "__float__", "__int__", "__index__"]


class Run:
    """The parts of a training run that take its steps, in the order of a GPU or of a CPU."""

    def __init__(self, data_set, output, run_ahead: bool, **options):
        settings = {"network": "Tiny", "cpu_kernels": "off", "num_workers": 0, "output": str(output)} | options
        self.config = TrainConfig(batch_size=BATCH_SIZE, **settings)
        self.data = TrainingData(self.config, str(data_set), BATCH_SIZE, 0)
        self.model = Model(self.config, self.config, self.config, CLASSES)
        self.state, self.signals, self.losses = TrainState(), Signals(), []
        self.steps = Steps(self.config, self.model, self.signals, self.data, self.state, run_ahead)

    def take(self, last: int, ends_now=lambda step, last: step == last):
        """Take the steps up to `last`, yielding what the ranks ask for after each."""
        for batch in self.data.batches(self.state.step, last):
            step = self.state.step + 1
            loss, asked = self.steps.take(batch, 0.05, ends_now(step, last))
            self.state.step = step
            self.losses.append(loss)
            yield asked

    def arrays(self) -> dict[str, np.ndarray]:
        state = self.model.state()
        averages = {f"{kind} of {name}": array for kind, arrays in state.averages.items() for name, array in arrays.items()}
        centres = {"centres": state.centres, "velocity of centres": state.centres_velocity}
        return {name: array.copy() for name, array in (state.backbone | averages | centres).items()}


@pytest.fixture(scope="module")
def data_set(make_data_set):
    return make_data_set(IMAGES, CLASSES)


@pytest.fixture
def start(data_set, tmp_path, tiny, monkeypatch):
    """Returns a function that makes a Run; one that runs ahead moves its batches to the device as for a GPU."""

    def run(run_ahead: bool, **options) -> Run:
        if run_ahead:
            monkeypatch.setattr(training_data, "on_cpu", training_data.on_gpu)
        return Run(data_set, tmp_path, run_ahead, **options)

    return run


@pytest.fixture
def spoil(monkeypatch):
    """Returns a function that has the embeddings of some steps, counted from 1, become infinite."""

    def patch(*bad: int) -> None:
        real = PartialFC.loss

        def loss(self, embeddings, labels, step, *listed):
            return real(self, embeddings * np.inf if step + 1 in bad else embeddings, labels, step, *listed)

        monkeypatch.setattr(PartialFC, "loss", loss)

    return patch


@pytest.fixture
def waits(monkeypatch):
    """A list that grows by a name whenever a tensor is read, or copied in a way that waits for a GPU."""
    seen, depth = [], 0

    def counted(name, function, matters=lambda *_: True):
        @functools.wraps(function)
        def call(*arguments, **more):
            nonlocal depth
            if depth == 0 and matters(*arguments):  # these call one another
                seen.append(name)
            depth += 1
            try:
                return function(*arguments, **more)
            finally:
                depth -= 1

        return call

    def by_a_mask(_, index, *__) -> bool:
        parts = index if isinstance(index, tuple) else (index,)
        return any(isinstance(part, paddle.Tensor) and part.dtype == paddle.bool for part in parts)

    for name in READS:
        monkeypatch.setattr(paddle.Tensor, name, counted(name, getattr(paddle.Tensor, name)))
    for name in ("__getitem__", "__setitem__"):
        monkeypatch.setattr(paddle.Tensor, name, counted(name, getattr(paddle.Tensor, name), by_a_mask))
    for name in ("nonzero", "masked_select"):
        monkeypatch.setattr(paddle, name, counted(name, getattr(paddle, name)))
        monkeypatch.setattr(paddle.Tensor, name, counted(name, getattr(paddle.Tensor, name)))
    monkeypatch.setattr(paddle, "to_tensor", counted("to_tensor", paddle.to_tensor))
    # On Paddle 2.6 it calls to_tensor with a tensor that is already where it belongs.
    monkeypatch.setattr(transfer, "from_dlpack", counted("from_dlpack", transfer.from_dlpack, lambda *_: False))
    return seen


IN_PARTS = {"accumulate": 2, "recompute": 1, "ema": 0.9, "sample_rate": 0.5}
OPTIONS = [
    {},
    {"clip_norm": 0.5, "scale": 100.0},
    {"sample_rate": 0.5},
    {"batch_norm": "frozen"},
    {"optimizer": "adamw", "freeze": "block", "head_lr_scale": 0.5},
    {"freeze": "backbone"},
    IN_PARTS,
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("bad", [(), (2, 3)])
def test_both_orders_end_with_the_same_bits_and_a_bad_step_changes_nothing(start, spoil, options, bad):
    spoil(*bad)
    ends = []
    for run_ahead in (False, True):
        run = start(run_ahead, on_nonfinite="skip:2", **options)
        list(run.take(5))
        assert run.state.skipped == len(bad) and run.state.loss_count == 5 - len(bad)
        ends.append(run.arrays() | {"losses": np.array([loss.item() for loss in run.losses])})
    expected, actual = ends
    assert all(np.isfinite(array).all() for array in expected.values())
    assert [name for name in expected if not np.array_equal(expected[name], actual[name])] == []


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
@pytest.mark.parametrize("scale", [64.0, 100.0])
@pytest.mark.parametrize("cpu_kernels", ["off", "auto"])
def test_steps_in_parts_end_where_whole_ones_do(start, cpu_kernels, sample_rate, scale):
    ends = []
    for parts in (1, 4):
        run = start(False, batch_norm="frozen", accumulate=parts, cpu_kernels=cpu_kernels, sample_rate=sample_rate, scale=scale)
        run.model.use_cpu_kernels()
        list(run.take(3))
        ends.append(run.arrays() | {"losses": np.array([loss.item() for loss in run.losses])})
    whole, in_parts = ends
    for name in whole:
        assert np.abs(in_parts[name] - whole[name]).max() <= 1e-4 * max(np.abs(whole[name]).max(), 0.01), name


@pytest.mark.parametrize("options", [{}, IN_PARTS])
@pytest.mark.parametrize("run_ahead", [False, True])
def test_a_run_that_stops_for_a_bad_step_is_as_it_was_before_it(start, spoil, tmp_path, run_ahead, options):
    spoil(3)
    run = start(run_ahead, **options)
    requests = run.take(5)
    next(requests), next(requests)
    before = run.arrays()
    with pytest.raises(UserError, match="the loss is not finite at step 3 .*last checkpoint is intact"):
        list(requests)
    assert run.state.step == 2 and (tmp_path / "nonfinite_step_00000003_rank_0.json").exists()
    after = run.arrays()
    assert [name for name in before if not np.array_equal(before[name], after[name])] == []


@pytest.mark.parametrize("run_ahead", [False, True])
def test_the_record_of_a_bad_step_names_the_first_bad_tensor_of_its_own_batch(start, tmp_path, monkeypatch, run_ahead):
    real = Model.forward

    def forward(self, batch, step):
        return real(self, batch._replace(images=batch.images.astype("float32") * np.inf) if step == 1 else batch, step)

    monkeypatch.setattr(Model, "forward", forward)
    list(start(run_ahead, on_nonfinite="skip:1").take(3))
    record = json.loads((tmp_path / "nonfinite_step_00000002_rank_0.json").read_text())
    assert record["bad_tensor"].startswith("the input of batch norm, ")


FP16 = {"precision": "fp16", "precision_emulation": 1}


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "batch_norm": "frozen"}, {"accumulate": 2, "recompute": 1, "ema": 0.5}])
def test_an_overflow_halves_the_scale_and_changes_nothing_else_in_both_orders(start, spoil, tmp_path, monkeypatch, options):
    monkeypatch.setattr(loss_scale, "STEPS_TO_DOUBLE", 3)
    spoil(2, 3)
    ends = []
    for run_ahead in (False, True):
        run, steps = start(run_ahead, **FP16, **options), []
        run.state.loss_scale = 16.0
        for _ in run.take(8, lambda step, last: True):
            steps.append((run.arrays(), run.state.loss_scale))
        assert [scale for _, scale in steps] == [16, 8, 4, 4, 4, 8, 8, 8]
        (first, _), _, (third, _), (fourth, _), *_ = steps
        assert [name for name in first if not np.array_equal(first[name], third[name])] == []
        assert not np.array_equal(third["centres"], fourth["centres"])
        assert (run.state.skipped, run.state.loss_count) == (0, 6) and not list(tmp_path.glob("nonfinite_*"))
        run = start(run_ahead, **FP16, **options)
        run.state.loss_scale = 16.0
        list(run.take(8))  # where a GPU reads how a step ended in the next one
        ends.append(run.arrays() | {"scale": np.array([run.state.loss_scale, run.state.steps_at_scale])})
        assert [name for name, array in steps[-1][0].items() if not np.array_equal(array, ends[-1][name])] == []
    assert [name for name in ends[0] if not np.array_equal(ends[0][name], ends[1][name])] == []


@pytest.mark.parametrize("run_ahead", [False, True])
def test_a_run_that_resumes_between_overflows_has_the_bits_of_one_that_does_not(start, spoil, monkeypatch, run_ahead):
    """On one rank; ranks/test_loss_scale.py has two, with the files of a checkpoint."""
    monkeypatch.setattr(loss_scale, "STEPS_TO_DOUBLE", 3)
    spoil(2, 5)
    whole, stopped, resumed = (start(run_ahead, **FP16) for _ in range(3))
    whole.state.loss_scale = stopped.state.loss_scale = 16.0
    list(whole.take(9)), list(stopped.take(7))
    resumed.model.load(stopped.model.state(), "a checkpoint")
    resumed.state.__dict__ |= json.loads(json.dumps(asdict(stopped.state)))
    assert (resumed.state.loss_scale, resumed.state.steps_at_scale) == (4.0, 2)
    list(resumed.take(9))
    assert replace(resumed.state, run=whole.state.run) == whole.state and whole.state.loss_scale == 8.0
    expected, actual = whole.arrays(), resumed.arrays()
    assert [name for name in expected if not np.array_equal(expected[name], actual[name])] == []


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("precision, scale", [("fp16", 1.0), ("bf16", 2.0**16)])
def test_with_the_least_scale_or_without_one_a_bad_step_is_what_it_is_in_float32(start, spoil, precision, scale, run_ahead):
    spoil(2)
    run = start(run_ahead, on_nonfinite="skip:1", **FP16 | {"precision": precision})
    run.state.loss_scale = scale
    list(run.take(3))
    assert run.state.skipped == 1 and run.state.loss_scale == scale


def test_a_scale_that_nothing_overflows_with_stops_growing(start, monkeypatch):
    monkeypatch.setattr(loss_scale, "STEPS_TO_DOUBLE", 1)
    run = start(False, **FP16, freeze="backbone")
    run.state.loss_scale = 2.0**23
    list(run.take(3))
    assert run.state.loss_scale == 2.0**24


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_loss_scale_leaves_the_gradient_what_it_is_and_float16_needs_one(start, monkeypatch, precision):
    """Embeddings of a length of 1e7 have gradients below what float16 has."""
    real = PartialFC.loss
    monkeypatch.setattr(PartialFC, "loss", lambda self, x, *more: real(self, x * 1e7, *more) * 1e-7)
    gradients = []
    for scale in (1.0, 2.0**16):
        run = start(False, **FP16 | {"precision": precision}, clip_norm=1e-12, weight_decay=0.0)
        batch = next(iter(run.data.batches(0, 1)))
        computed = run.model.backward(run.model.forward(batch, 0), scale)
        gradients.append(computed.gradient.numpy())
        run.model.update(computed, 0.1)
    plain, scaled = gradients
    step = np.concatenate([array.ravel() for array in run.model.state().averages["momentum"].values()])
    assert np.linalg.norm(step) == pytest.approx(1e-12, rel=1e-3)  # clipped is what was unscaled
    assert np.abs(scaled).max() > 0 and np.isfinite(scaled).all()
    difference = np.linalg.norm(scaled - plain) / np.linalg.norm(scaled)
    assert difference > 0.1 if precision == "fp16" else difference < 1e-5


def test_a_run_in_a_low_precision_learns_like_one_in_float32(start):
    losses = {}
    for precision in ("float32", "bf16", "fp16"):
        run = start(False, **FP16 | {"precision": precision}, scale=16.0, margin2=0.0)
        list(run.take(56, lambda step, last: False))
        losses[precision] = [loss.item() for loss in run.losses]
    first, last = np.mean(losses["float32"][:7]), np.mean(losses["float32"][-7:])
    assert last < 0.8 * first
    for precision in ("bf16", "fp16"):
        assert losses[precision] != losses["float32"]
        assert np.mean(losses[precision][-7:]) == pytest.approx(last, abs=0.05 * (first - last))


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("options", [*OPTIONS, {"on_nonfinite": "skip:1"}])
def test_a_step_waits_for_the_device_once(start, waits, options, run_ahead):
    run = start(run_ahead, **options)
    seen = []
    for _ in run.take(4):
        seen.append(list(waits))
        waits.clear()
    assert seen[1:3] == [["numpy"], ["numpy"]]
    a = paddle.ones([2])
    a.sum().item(), bool(a[0]), np.asarray(a), a[a > 0], paddle.to_tensor([1.0]), a.to("cpu"), a.nonzero()
    assert len(waits) == 7  # of this test itself


def test_a_step_is_read_when_the_forward_pass_of_the_next_one_is_queued(start, monkeypatch):
    events = []
    for name in ("forward", "backward", "update"):
        real = getattr(Model, name)
        monkeypatch.setattr(Model, name, lambda *a, real=real, name=name: (events.append(name), real(*a))[1])
    monkeypatch.setattr(training_steps, "to_host", lambda tensor: lambda: (events.append("read"), tensor.numpy())[1])
    list(start(True).take(3, lambda step, last: step == 3))
    assert " ".join(events) == "forward backward update forward read backward update forward read backward update read"
    events.clear()
    list(start(False).take(2))
    assert " ".join(events) == "forward backward read update forward backward read update"


def test_what_the_ranks_ask_for_is_found_a_step_later_and_then_at_once(start):
    run, stopped = start(True), []
    with run.signals:
        for asked in run.take(9, lambda step, last: False):
            if run.state.step == 2:
                signal.raise_signal(signal.SIGTERM)
            stopped.append(asked.stop)
            if asked.stop:
                break
    assert stopped == [False, False, False, True] and run.steps._queued is None  # the third step told it, the fourth is done


def test_a_wish_is_copied_to_the_device_only_when_it_is_new(monkeypatch):
    from arcface.training import signals as module

    copies = []
    monkeypatch.setattr(module, "to_device", lambda array: (copies.append(array.tolist()), paddle.to_tensor(array))[1])
    signals, finite = Signals(), paddle.to_tensor([True])
    with signals:
        assert Request.of(signals.sync(finite, 0).numpy()) == Request()
        signals.sync(finite, 0)
        signal.raise_signal(signal.SIGUSR1)
        assert Request.of(signals.sync(finite.logical_not(), 3).numpy()) == Request(nonfinite=True, save=True, unreadable=3)
        signals.sync(finite, 3)
        signals.sync(finite, 3)
    assert copies == [[0, 0, 0], [0, 1, 3], [0, 0, 3]]


@pytest.mark.parametrize("run_ahead", [False, True])
def test_a_step_of_mobilefacenet_is_at_most_450_kernel_calls(data_set, tmp_path, monkeypatch, run_ahead):
    if run_ahead:  # as a GPU does it
        monkeypatch.setattr(training_data, "on_cpu", training_data.on_gpu)
        monkeypatch.setattr(unit, "DEVICES_SUMMED_BY_PRODUCT", ())
    run = Run(data_set, tmp_path, run_ahead, network="MobileFaceNet_128")
    requests = run.take(3, lambda step, last: False)
    next(requests)
    with kernel_calls() as calls:
        next(requests)
    assert 400 < len(calls) <= 450, (len(calls), Counter(calls))


@pytest.mark.parametrize("allowed", [0, 1])
def test_the_backbone_and_nothing_else_computes_with_tf32(start, monkeypatch, allowed):
    seen, now = [], [False]

    @contextmanager
    def switch(allowed: bool):
        before, now[0] = now[0], allowed
        yield
        now[0] = before

    def noted(of, name, what):
        real = getattr(of, name)
        monkeypatch.setattr(of, name, lambda *a, **k: (seen.append((what, now[0])), real(*a, **k))[1])

    monkeypatch.setattr(model_module, "tf32", switch)
    noted(Tiny, "forward", "backbone")
    noted(PartialFC, "loss", "head")
    noted(paddle.Tensor, "backward", "gradients")
    noted(PartialFC, "update", "head's update")
    list(start(True, tf32=allowed).take(1))
    expected = [("backbone", bool(allowed)), ("head", False), ("gradients", bool(allowed)), ("head's update", False)]
    assert seen == expected
