"""What the head asks of a GPU, tried on the CPU: nothing that waits, nothing that is slow or wrong there, few launches."""

import numpy as np
import paddle
import pytest
from kernel_calls import kernel_calls
from no_reads import no_reads

from arcface.head import block_softmax, unit
from arcface.head.block_softmax import BlockSoftmax
from arcface.head.partial_fc import PartialFC
from arcface.head.shards import Shard
from arcface.head.targets import find_targets

CLASSES, SIZE, LR, MOMENTUM, WEIGHT_DECAY = 50, 16, 0.1, 0.9, 1e-3
LABELS = np.array([3, 7, 3, -1, 49, 0, 3, 7])  # several rows of one class, and padding
MOST_CALLS = 105  # of a step; ten of these are views, which launch nothing


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(unit, "DEVICES_SUMMED_BY_PRODUCT", frozenset())
    monkeypatch.setitem(block_softmax.CLASSES_PER_BLOCK, "cpu", block_softmax.CLASSES_PER_BLOCK_ELSEWHERE)


def batch(seed=0):
    draw = np.random.default_rng(seed)
    return paddle.to_tensor(draw.standard_normal((len(LABELS), SIZE), np.float32), stop_gradient=False)


def step(head, x, number, labels=LABELS, listed=None, **finite):
    """A step; returns loss and the gradient of the embeddings."""
    loss = head.loss(x, labels if isinstance(labels, paddle.Tensor) else paddle.to_tensor(labels), number, listed)
    loss.backward()
    head.update(LR, MOMENTUM, WEIGHT_DECAY, **finite)
    return loss, x.grad


def state(head):
    return head.weight.numpy().copy(), head.velocity.numpy().copy()


def same_bits(some, others):
    return all(one.tobytes() == other.tobytes() for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("rate", [1.0, 0.2])
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_whose_labels_the_host_knows_reads_nothing_from_the_device(rate, masked):
    head, x, labels = PartialFC(CLASSES, SIZE, sample_rate=rate), batch(), paddle.to_tensor(LABELS)
    finite = {"finite": paddle.ones([1], "bool")} if masked else {}
    with no_reads():
        step(head, x, 0, labels, LABELS, **finite)


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_labels_that_the_host_knows_give_the_same_step(rate):
    heads = [PartialFC(CLASSES, SIZE, sample_rate=rate) for _ in range(2)]
    results = []
    for head, listed in zip(heads, (None, LABELS), strict=True):
        values = [value.numpy() for number in range(2) for value in step(head, batch(number), number, listed=listed)]
        results.append([*values, *state(head)])
    assert same_bits(*results)


def test_an_image_that_proves_unreadable_is_not_in_the_loss_but_its_class_may_be_sampled():
    labels = np.where(np.arange(len(LABELS)) == 4, -2, LABELS)  # whose class, 49, no other row has
    heads = [PartialFC(CLASSES, SIZE) for _ in range(2)]
    left_out, unreadable = ([*step(head, batch(), 0, labels, given)] for head, given in zip(heads, (None, LABELS), strict=True))
    # Its class is then a target, and no negative, of a row that counts for nothing.
    assert left_out[0].item() == pytest.approx(unreadable[0].item(), rel=1e-6)
    assert unreadable[1].numpy() == pytest.approx(left_out[1].numpy(), abs=1e-6)
    assert not unreadable[1].numpy()[4].any()
    assert heads[0].weight.numpy() == pytest.approx(heads[1].weight.numpy(), abs=1e-6)
    head = PartialFC(CLASSES, SIZE, sample_rate=0.1)
    step(head, batch(), 0, labels, LABELS)
    assert 49 in head.sampled.numpy()


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_a_step_that_is_not_finite_changes_no_bit(rate):
    head = PartialFC(CLASSES, SIZE, sample_rate=rate)
    step(head, batch(), 0)
    before = state(head)
    for number, value in enumerate((np.nan, np.inf)):
        x = batch().numpy()
        x[0, 0] = value
        loss, _ = step(head, paddle.to_tensor(x, stop_gradient=False), number, listed=LABELS, finite=paddle.zeros([1], "bool"))
        assert not np.isfinite(loss.item())
        assert same_bits(before, state(head))


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_a_masked_step_that_is_finite_is_the_plain_one_bit_for_bit(rate):
    plain, masked = (PartialFC(CLASSES, SIZE, sample_rate=rate) for _ in range(2))
    for number in range(2):
        step(plain, batch(number), number)
        step(masked, batch(number), number, finite=paddle.ones([1], "bool"))
    assert same_bits(state(plain), state(masked))


def test_sums_are_no_products_with_ones_and_keep_the_digits_of_float32():
    x = np.random.default_rng(0).random((37, 1000), np.float32)
    with kernel_calls() as calls:
        rows, columns = unit.row_sums(paddle.to_tensor(x)), unit.column_sums(paddle.to_tensor(x))
    assert "matmul" not in calls
    assert rows.numpy() == pytest.approx(x.sum(1, dtype=np.float64, keepdims=True), rel=1e-5)
    assert columns.numpy() == pytest.approx(x.sum(0, dtype=np.float64, keepdims=True), rel=1e-5)


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_a_step_has_three_products_no_slow_kernel_and_few_launches(rate):
    head, labels = PartialFC(CLASSES, SIZE, sample_rate=rate), paddle.to_tensor(LABELS)
    with kernel_calls() as calls:
        step(head, batch(), 0, labels, LABELS)
    assert calls.count("matmul") == 3  # the logits, the weighted centres, the centres' gradient
    slow = ("put_along_axis", "index_add", "set_value", "set_value_with_tensor", "index_put", "searchsorted", "nonzero")
    assert not set(slow) & set(calls)
    assert len(calls) <= MOST_CALLS, sorted(calls)


def test_a_step_writes_the_targets_entries_and_makes_nothing_of_a_block_s_size_for_it():
    targets = find_targets(LABELS, Shard(0, CLASSES), None)
    softmax = BlockSoftmax(paddle.randn([CLASSES, SIZE]), targets, 1.0, None)
    softmax.sums(paddle.randn([len(LABELS), SIZE]))
    before, values = softmax._e.numpy().copy(), paddle.arange(len(LABELS), dtype="float32").unsqueeze(1)
    with kernel_calls() as calls:
        softmax.set_targets(values)
    rows = LABELS >= 0
    assert (before[LABELS[rows], rows] < 1e-38).all()
    before[LABELS[rows], rows] = np.arange(len(LABELS))[rows]
    assert np.array_equal(softmax._e.numpy(), before)
    assert sorted(calls) == ["gather", "reshape", "scatter"]


def test_a_rank_may_have_no_target_and_a_batch_no_label():
    targets = find_targets(LABELS, Shard(10, 30), None)
    assert not len(targets.rows) and not targets.owned.numpy().any() and not targets.place.numpy().any()
    head = PartialFC(CLASSES, SIZE)
    weight, _ = state(head)
    loss, gradient = step(head, batch(), 0, np.full_like(LABELS, -1))
    assert loss.item() == 0 and not gradient.numpy().any()
    assert head.weight.numpy() == pytest.approx(weight * (1 - LR * WEIGHT_DECAY), rel=1e-6)


def test_centres_start_without_an_assignment_to_a_slice():
    with kernel_calls() as calls:
        PartialFC(CLASSES, SIZE)
    assert not {"set_value", "set_value_with_tensor"} & set(calls), "on Paddle 2.6 with zeros as large as all centres"
