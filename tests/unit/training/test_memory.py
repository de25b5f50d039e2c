"""What a run takes of memory, by part, and what is said of it."""

import re
from dataclasses import replace

import pytest

from arcface.config import TrainConfig
from arcface.errors import UserError
from arcface.system.hardware import DeviceMemory
from arcface.training import memory
from arcface.training.memory import WITH_GAPS, check_memory, estimate, out_of_memory_explained

CONFIG = TrainConfig(network="Tiny", embedding_size=64, batch_size=1024, num_workers=2, cpu_kernels="off")
CLASSES = 1000
# Of an image: the input; what convolution and batch norm give, 8 x 16 x 16 each; that after PReLU, which the pooling keeps; and
# what goes into the linear layer.
SAVED_BY_LAYERS = 3 * 112 * 112 + 3 * 8 * 16 * 16 + 128
SAVED_BY_KERNELS = 3 * 112 * 112 + 2 * 8 * 16 * 16 + 128  # batch norm is computed again


pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def room(tiny, monkeypatch):
    """Returns a function that makes the memory that large, in units of what CONFIG takes beside the process."""
    monkeypatch.setattr(memory, "resident_memory", lambda: 0)
    needed = estimate(CONFIG, CLASSES, 1, "cpu").total

    def make(total: float, available: float) -> None:
        monkeypatch.setattr(
            memory, "device_memory", lambda device: DeviceMemory(round(total * needed), round(available * needed), "a box")
        )

    return make


@pytest.mark.parametrize("kernels, saved", [("off", SAVED_BY_LAYERS), ("auto", SAVED_BY_KERNELS)])
def test_activations_are_counted_from_the_layers(monkeypatch, kernels, saved):
    monkeypatch.setattr(memory, "can_be_loaded", lambda: True)
    counted = estimate(replace(CONFIG, cpu_kernels=kernels), CLASSES, 1, "cpu").activations / (4 * WITH_GAPS * CONFIG.batch_size)
    assert counted == pytest.approx(saved, rel=1e-3)  # and the statistics of batch norm


def test_parts_follow_batch_classes_ranks_and_precision():
    one, two = (estimate(CONFIG, CLASSES, ranks, "cpu") for ranks in (1, 2))
    assert one.weights == 4 * (8 * 3 * 49 + 4 * 8 + 8 + 128 * 64 + 64)
    assert one.centres == 8 * CLASSES * 64 == 2 * two.centres
    assert one.activations == pytest.approx(2 * two.activations, rel=1e-6) and one.batches == 2 * two.batches
    assert one.logits - two.logits >= 4 * CLASSES // 2 * CONFIG.batch_size  # the images of all ranks, half of the classes
    assert estimate(CONFIG, CLASSES, 1, "cpu", "bfloat16").activations == pytest.approx(one.activations / 2, rel=1e-6)
    sampled = estimate(replace(CONFIG, sample_rate=0.1, batch_size=8), CLASSES, 1, "cpu")
    assert sampled.logits < estimate(replace(CONFIG, batch_size=8), CLASSES, 1, "cpu").logits
    assert one.total == sum(one) and one.process > 2**20


def test_nothing_is_said_where_it_fits(room):
    room(1.01, 1.01)
    assert check_memory(CONFIG, CLASSES, 1, 1, "cpu") is None


def test_what_fits_but_for_other_programs_is_a_warning_that_names_a_batch_that_fits_now(room):
    room(2, 0.5)
    warning = check_memory(CONFIG, CLASSES, 1, 1, "cpu")
    assert re.match(
        r"Tiny with --batch_size 1024 needs about .* MiB a rank, .* of it activations, and only .* of a box are free now: "
        r"end other programs, or use --batch_size \d+$",
        warning,
    )
    batch = int(warning.split()[-1])
    assert 256 < batch < 512 and batch % 8 == 0
    assert check_memory(replace(CONFIG, batch_size=batch), CLASSES, 1, 1, "cpu") is None


@pytest.mark.parametrize("ranks_here", [1, 2])
def test_what_does_not_fit_at_all_is_refused_with_a_batch_that_fits(room, ranks_here):
    room(0.5, 0.5)
    with pytest.raises(UserError, match=r"more than .* of a box( for 2 ranks)?; use --batch_size (\d+)$") as caught:
        check_memory(CONFIG, CLASSES, ranks_here, ranks_here, "cpu")
    batch = int(str(caught.value).split()[-1])
    assert batch % ranks_here == 0
    assert check_memory(replace(CONFIG, batch_size=batch), CLASSES, ranks_here, ranks_here, "cpu") is None


def test_centres_that_do_not_fit_are_named(room):
    room(1, 1)
    with pytest.raises(UserError, match=r"the centres of 2000000000 classes .* \(1024.0 GB a rank\); correct --num_classes"):
        check_memory(CONFIG, 2_000_000_000, 1, 1, "cpu")


def test_where_no_batch_fits_that_is_said(room):
    room(1e-3, 1e-3)
    with pytest.raises(UserError, match="; no batch is small enough: "):
        check_memory(CONFIG, 2, 1, 1, "cpu")


@pytest.mark.parametrize(
    "error, detail",
    [
        (MemoryError(), "none is left"),
        (
            MemoryError("\n\n(ResourceExhausted) Fail to alloc memory of 128 size, error code is 12.\n  [Hint: ...]"),
            "Fail to alloc memory of 128 size, error code is 12.",
        ),
    ],
)
def test_memory_that_runs_out_is_one_line(error, detail):
    with pytest.raises(UserError) as caught, out_of_memory_explained(CONFIG):
        raise error
    assert str(caught.value) == f"out of memory ({detail}): use a smaller --batch_size than 1024, or more ranks"
