"""What a run takes of memory, by part, and what is said of it."""

import re
from dataclasses import replace

import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.backbones.layers import Conv2D
from arcface.config import TrainConfig
from arcface.errors import UserError
from arcface.system.hardware import DeviceMemory
from arcface.training import memory
from arcface.training.memory import CUDA_ALLOWANCE, RESERVE, WITH_GAPS, check_memory, estimate, out_of_memory_explained

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
    activations = estimate(replace(CONFIG, cpu_kernels=kernels), CLASSES, 1, "cpu").activations
    gaps = WITH_GAPS["layers" if kernels == "off" else "kernels"]
    assert activations / (4 * gaps * CONFIG.batch_size) == pytest.approx(saved, rel=1e-3)  # and the statistics of batch norm


@pytest.mark.parametrize("kernels, inside", [("off", 2 * 8 * 16 * 16), ("auto", 8 * 16 * 16)])
def test_a_block_that_is_computed_again_saves_its_input_and_is_there_with_its_gradients_for_a_time(monkeypatch, kernels, inside):
    monkeypatch.setattr(memory, "can_be_loaded", lambda: True)
    plain, again = (estimate(replace(CONFIG, cpu_kernels=kernels, recompute=on), CLASSES, 1, "cpu").activations for on in (0, 1))
    saved = SAVED_BY_LAYERS if kernels == "off" else SAVED_BY_KERNELS
    assert again / plain == pytest.approx((saved - inside + 2 * inside) / saved, rel=1e-3)  # Tiny has one block only


def test_parts_follow_the_images_computed_at_a_time_and_the_averaged_backbone():
    one, other = (estimate(replace(CONFIG, **options), CLASSES, 1, "cpu") for options in ({}, {"accumulate": 4, "ema": 0.999}))
    assert other.activations == pytest.approx(one.activations / 4, rel=1e-6) and other.weights == 2 * one.weights
    assert (other.gradients, other.centres, other.logits, other.batches) == (one.gradients, one.centres, one.logits, one.batches)


def test_parts_follow_batch_classes_ranks_and_precision():
    one, two = (estimate(CONFIG, CLASSES, ranks, "cpu") for ranks in (1, 2))
    assert one.weights == 4 * (8 * 3 * 49 + 4 * 8 + 8 + 128 * 64 + 64)
    assert one.gradients == two.gradients == 4 * 4 * (one.weights // 4 - 2 * 8)  # batch norm's statistics have none
    assert one.centres == 8 * CLASSES * 64 == 2 * two.centres
    assert one.activations == pytest.approx(2 * two.activations, rel=1e-6) and one.batches == 2 * two.batches
    assert one.logits - two.logits >= 4 * CLASSES // 2 * CONFIG.batch_size  # the images of all ranks, half of the classes
    emulated = estimate(replace(CONFIG, precision="bf16"), CLASSES, 1, "cpu").activations
    assert emulated / WITH_GAPS["emulated"] == pytest.approx(one.activations / WITH_GAPS["layers"], rel=1e-2)  # none is small
    float32, bf16 = (estimate(replace(CONFIG, precision=precision), CLASSES, 1, "gpu:0") for precision in ("float32", "bf16"))
    assert bf16.activations == pytest.approx(float32.activations / 2, rel=1e-3)
    assert bf16.weights - float32.weights == 2 * (one.weights // 4 - 2 * 8)  # copies of what is trained
    sampled = estimate(replace(CONFIG, sample_rate=0.1, batch_size=8), CLASSES, 1, "cpu")
    assert sampled.logits < estimate(replace(CONFIG, batch_size=8), CLASSES, 1, "cpu").logits
    assert one.total == sum(one) and one.process > 2**20


def test_on_a_card_all_but_what_depthwise_and_last_convolutions_need_is_halved():
    inputs = []
    backbone = create_backbone("MobileFaceNet_128", 64)
    for name, layer in backbone.named_sublayers():
        if isinstance(layer, Conv2D) and layer.weight.shape[1] == 1 or name.startswith("linear1."):
            layer.register_forward_pre_hook(lambda layer, given: inputs.append(given[0].size))
    backbone(paddle.zeros([1, 3, 112, 112]))
    config = replace(CONFIG, network="MobileFaceNet_128")
    float32, bf16 = (estimate(replace(config, precision=p), CLASSES, 1, "gpu:0").activations for p in ("float32", "bf16"))
    expected = float32 / 2 + 2 * sum(inputs) * CONFIG.batch_size * WITH_GAPS["card"]
    assert bf16 == pytest.approx(expected, rel=1e-3) and 0.5 < bf16 / float32 < 0.7


def test_what_does_not_fit_names_the_precision(room):
    room(0.5, 0.5)
    with pytest.raises(UserError, match="Tiny with --batch_size 1024 and --precision fp16 needs about "):
        check_memory(replace(CONFIG, precision="fp16"), CLASSES, 1, 1, "cpu")


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


def test_a_batch_that_fits_can_be_computed_in_the_same_parts(room):
    room(9, 0.9)
    config = replace(CONFIG, accumulate=3, batch_size=3072)
    batch = int(check_memory(config, CLASSES, 1, 1, "cpu").split()[-1])
    assert 0 < batch < 3072 and batch % 3 == 0
    assert check_memory(replace(config, batch_size=batch), CLASSES, 1, 1, "cpu") is None


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


GIB = 2**30
# As Paddle 2.6 and 3.3 raise them on a GPU: the allocator's, with and without a C++ traceback, and those of CUDA's libraries.
OF_ALLOCATOR = (
    "Out of memory error on GPU 3. Cannot allocate 401.408203MB memory on GPU 3, 15.606445GB memory has been allocated and"
    " available memory is only 166.187500MB."
)
WHAT_TO_DO = (
    "\n\nPlease check whether there is any other process using GPU 3.\n1. If yes, please stop them, or start PaddlePaddle on"
    " another GPU.\n2. If no, please decrease the batch size of your model. \n"
)
TRACEBACK = (
    "\n\n--------------------------------------\nC++ Traceback (most recent call last):\n--------------------------------------\n"
    "0   void* phi::DeviceContext::Alloc<float>(phi::TensorBase*, unsigned long, bool) const\n"
    "1   paddle::memory::allocation::AllocatorFacade::Alloc(phi::Place const&, unsigned long)\n\n"
    "----------------------\nError Message Summary:\n----------------------\nResourceExhaustedError: \n\n"
)
AT = " (at ../paddle/fluid/memory/allocation/cuda_allocator.cc:86)\n"
ON_A_CARD = [
    (MemoryError(f"\n\n(ResourceExhausted) \n\n{OF_ALLOCATOR}{WHAT_TO_DO}{AT}"), OF_ALLOCATOR),
    (MemoryError(f"{TRACEBACK}{OF_ALLOCATOR}{WHAT_TO_DO}{AT}"), OF_ALLOCATOR),
    (RuntimeError(f"{TRACEBACK}{OF_ALLOCATOR}{WHAT_TO_DO}{AT}"), OF_ALLOCATOR),
    (
        OSError("(External) CUDA error(2), out of memory. \n  [Hint: 'cudaErrorMemoryAllocation'. The API call failed because"),
        "CUDA error(2), out of memory.",
    ),
    (
        OSError("(External) CUBLAS error(3). \n  [Hint: 'CUBLAS_STATUS_ALLOC_FAILED'.  Resource allocation failed inside"),
        "[Hint: 'CUBLAS_STATUS_ALLOC_FAILED'.  Resource allocation failed inside",
    ),
    (OSError("(External) CUDNN error(2), CUDNN_STATUS_ALLOC_FAILED. \n  [Hint: ..."), "CUDNN error(2), CUDNN_STATUS_ALLOC_FAILED."),
]


@pytest.fixture
def card(monkeypatch):
    """Returns a function that makes gpu:3 a card of so many GiB, of which Paddle holds some and some are free."""

    def make(total: float, held: float, free: float) -> None:
        memory_of_card = DeviceMemory(round(total * GIB), round(free * GIB), "the NVIDIA T4")
        monkeypatch.setattr(memory, "device_memory", {"gpu:3": memory_of_card}.__getitem__)
        monkeypatch.setattr(paddle.device.cuda, "memory_reserved", {"gpu:3": round(held * GIB)}.__getitem__)

    return make


@pytest.mark.parametrize("error, detail", ON_A_CARD)
def test_a_card_whose_memory_runs_out_is_one_line_with_the_parts_and_a_batch_that_fits(card, error, detail):
    card(2, held=1.2, free=0.1)
    with pytest.raises(UserError) as caught, out_of_memory_explained(CONFIG, CLASSES, 1, "gpu:3"):
        raise error
    said = str(caught.value)
    start = f"out of memory ({detail}): Tiny with --batch_size 1024 was estimated to need 1."
    assert said.startswith(start) and said.count("\n") == 0
    assert re.search(
        r" GiB a rank \(process 1 GiB, weights [\d.]+ KiB, gradients .*, activations \d+ MiB, .*, batches .*\);"
        r" of 2 GiB of the NVIDIA T4 Paddle holds 1.2 GiB in this process, and 102 MiB are free; use --batch_size \d+,"
        r" or more ranks$",
        said,
    )
    batch = int(said.split()[-4].rstrip(","))
    assert batch % 8 == 0
    assert (
        0.8
        < estimate(replace(CONFIG, batch_size=batch), CLASSES, 1, "gpu:3").total / estimate(CONFIG, CLASSES, 1, "gpu:3").total
        < 1
    )


def test_a_card_that_others_fill_gets_a_batch_for_what_is_left(card):
    card(2, held=0.1, free=0.05)
    with pytest.raises(UserError, match="use --batch_size") as caught, out_of_memory_explained(CONFIG, CLASSES, 1, "gpu:3"):
        raise MemoryError(OF_ALLOCATOR)
    batch = int(str(caught.value).split()[-4].rstrip(","))
    assert estimate(replace(CONFIG, batch_size=batch), CLASSES, 1, "gpu:3").total < CUDA_ALLOWANCE + 0.15 * GIB


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("(External) CUDA error(700)")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, out_of_memory_explained(CONFIG, CLASSES, 1, "gpu:3"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "gib, batch_size, ranks, fits",
    [
        (16, 256, 1, True),
        (16, 512, 1, False),
        (24, 512, 1, True),
        (24, 1024, 1, False),
        (80, 1024, 1, True),
        (80, 4096, 1, False),
        (16, 512, 2, True),  # a card each
        (16, 1024, 2, False),
    ],
)
def test_mobilefacenet_on_cards(card, gib, batch_size, ranks, fits):
    def check(batch_size: int) -> str | None:
        return check_memory(TrainConfig(batch_size=batch_size), 85_742, ranks, ranks, "gpu:3")

    card(gib, held=0, free=gib - 0.2)
    if fits:
        assert check(batch_size) is None
        return
    with pytest.raises(UserError, match=rf"more than {gib} GiB of the NVIDIA T4; use --batch_size \d+$") as caught:
        check(batch_size)
    advised = int(str(caught.value).split()[-1])
    card(gib * RESERVE, held=0, free=gib * RESERVE)
    assert check(advised) is None
    with pytest.raises(UserError):
        check(advised + 8 * ranks)


def test_what_other_programs_hold_of_a_card_is_a_warning(card):
    card(24, held=0, free=20)
    warning = check_memory(TrainConfig(), 85_742, 1, 1, "gpu:3")
    assert re.search(r"and only 20 GiB of the NVIDIA T4 are free now: end other programs, or use --batch_size \d+$", warning)


def test_what_is_frozen_needs_no_gradients_and_saves_nothing_unless_it_is_behind_what_is_trained():
    plain, first, last, all_frozen, adamw = (
        estimate(replace(CONFIG, **options), CLASSES, 1, "cpu")
        for options in ({}, {"freeze": "block"}, {"freeze": "linear"}, {"freeze": "backbone"}, {"optimizer": "adamw"})
    )
    linear, block = 128 * 64 + 64, 8 * 3 * 7 * 7 + 3 * 8
    trained = [each.gradients / 16 for each in (plain, first, last, all_frozen)]
    assert trained == [linear + block, linear, block, 0]
    assert adamw.gradients == 28 * (linear + block)
    assert all_frozen.activations <= first.activations < plain.activations == last.activations
    assert len({each.weights for each in (plain, first, last, all_frozen, adamw)}) == 1


def test_a_backbone_is_counted_on_the_cpu(monkeypatch):
    devices = ["gpu:3"]
    monkeypatch.setattr(paddle, "get_device", lambda: devices[-1])
    monkeypatch.setattr(paddle, "set_device", devices.append)
    monkeypatch.setattr(memory, "_count", lambda *_: devices.append("counted"))
    memory._look_at.__wrapped__(None)
    assert devices == ["gpu:3", "cpu", "counted", "gpu:3"]
