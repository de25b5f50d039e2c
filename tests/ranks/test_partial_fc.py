"""The sharded head computes what the formula says, however many ranks share the classes."""

from pathlib import Path

import head_cases as cases
import head_reference as reference
import numpy as np
import paddle
import pytest

from arcface.errors import UserError
from arcface.head.margins import Margin
from arcface.head.partial_fc import PartialFC
from arcface.head.sampling import sample_classes
from arcface.head.shards import Shard
from arcface.ops.build import load_library

HELPERS = Path(__file__).parents[1] / "helpers"

# How many, with what ("kernels" or Paddle's operations), and in how many parts a step is computed.
RANKS = [(1, "", 1), (2, "", 1), (3, "", 1), (4, "", 1), (1, "kernels", 1), (3, "kernels", 1), (2, "", 3)]
TOLERANCE = 1e-5  # relative to the largest entry


@pytest.fixture(scope="module", params=RANKS, ids=lambda ranks: f"{ranks[0]}ranks{ranks[1]}{ranks[2]}")
def computed(request, run_ranks, tmp_path_factory):
    """What the ranks computed in all cases, as a function: (margins' name, scale, classes, sample rate) -> dict per rank."""
    folder, (ranks, how, parts) = tmp_path_factory.mktemp("head"), request.param
    if how == "kernels" and load_library() is None:
        pytest.skip("no C++ compiler: the kernels cannot be built")
    run_ranks(ranks, HELPERS / "head_worker.py", folder, how, parts)
    files = [np.load(folder / f"{rank}.npz") for rank in range(ranks)]

    def case(*name):
        prefix = "/".join(map(str, name)) + "/"
        return [{key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)} for file in files]

    return case


def close(actual, expected, tolerance=TOLERANCE):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("rate", (1.0, 0.5, 0.1))
@pytest.mark.parametrize("classes", (cases.EQUAL, cases.UNEQUAL))
@pytest.mark.parametrize(("name", "scale"), cases.LOSSES)
def test_loss_gradients_and_updates_equal_the_formula(computed, name, scale, classes, rate):
    ranks = computed(name, scale, classes, rate)
    tolerance = TOLERANCE * scale / cases.SCALE  # an error of a cosine is as much larger in exp(scale * cosine)
    centres = cases.batch(classes, 0)[2].astype(np.float64)
    velocity = np.zeros_like(centres)
    for step in range(2):
        embeddings, labels, _ = cases.batch(classes, step)
        embeddings = embeddings.astype(np.float64)
        sampled = np.concatenate([rank["shard"][0] + rank[f"sampled{step}"] for rank in ranks])
        places = np.where(labels < 0, -1, np.searchsorted(sampled, labels))

        def loss_of(x, w):
            return reference.loss(x, places, w, cases.MARGINS[name], scale)

        for rank in ranks:
            assert rank[f"loss{step}"] == pytest.approx(loss_of(embeddings, centres[sampled]), rel=tolerance)
        by_embeddings = reference.gradient(lambda x: loss_of(x, centres[sampled]), embeddings)
        close(np.concatenate([rank[f"gradient{step}"] for rank in ranks]), by_embeddings, tolerance)
        by_centres = reference.gradient(lambda w: loss_of(embeddings, w), centres[sampled])
        velocity[sampled] = cases.MOMENTUM * velocity[sampled] + by_centres + cases.WEIGHT_DECAY * centres[sampled]
        centres[sampled] -= cases.LR * velocity[sampled]
        close(np.concatenate([rank[f"velocity{step}"] for rank in ranks]), velocity, tolerance)
        close(np.concatenate([rank[f"weight{step}"] for rank in ranks]), centres, tolerance)


@pytest.mark.parametrize("rate", (0.5, 0.1))
@pytest.mark.parametrize("classes", (cases.EQUAL, cases.UNEQUAL))
def test_sampling_takes_the_batch_s_classes_and_the_same_others_on_any_number_of_ranks(computed, classes, rate):
    centres = cases.batch(classes, 0)[2]
    for rank in computed("ArcFace", cases.SCALE, classes, rate):
        start, stop = rank["shard"]
        weight, velocity = centres[start:stop], np.zeros_like(centres[start:stop])
        for step in range(2):
            labels = cases.batch(classes, step)[1]
            sampled = rank[f"sampled{step}"]
            on_one_rank = sample_classes(labels, classes, Shard(0, classes), rate, 0, step)
            expected = on_one_rank[(on_one_rank >= start) & (on_one_rank < stop)] - start
            assert np.array_equal(sampled, expected) or (len(sampled) == 1 and not len(expected))
            assert np.isin(labels[labels >= 0], on_one_rank).all()
            unused = np.setdiff1d(np.arange(stop - start), sampled)
            assert np.array_equal(rank[f"weight{step}"][unused], weight[unused])
            assert np.array_equal(rank[f"velocity{step}"][unused], velocity[unused])
            assert (rank[f"weight{step}"][sampled] != weight[sampled]).any(axis=1).all()
            weight, velocity = rank[f"weight{step}"], rank[f"velocity{step}"]


@pytest.mark.parametrize("scale", (64.0, 1000.0))
@pytest.mark.parametrize("margins", cases.MARGINS.values(), ids=cases.MARGINS)
@pytest.mark.parametrize("cosines", ((1, -1), (-1, 1), (-1, -1), (1, 1), (1,), (-1,)), ids=str)
def test_loss_and_gradients_are_right_at_the_extremes_of_all_cosines(cosines, margins, scale):
    head = PartialFC(len(cosines), 2, Margin(*margins), scale)
    head.weight = paddle.to_tensor([[3.0 * cosine, 0.0] for cosine in cosines])
    x = paddle.to_tensor([[2.0, 0.0]], stop_gradient=False)
    loss = head.loss(x, paddle.to_tensor([0]), 0)
    loss.backward()
    head.update(1.0, 0.0, 0.0)
    target = scale * reference.margin(cosines[0], *margins)
    expected = np.logaddexp.reduce([target, *(scale * cosine for cosine in cosines[1:])]) - target
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5 * scale)
    for tensor in (x.grad, head.weight, head.velocity):
        assert np.isfinite(tensor.numpy()).all()


def test_slices_that_would_be_copies_are_refused():
    flag = "FLAGS_use_stride_kernel"
    before = paddle.get_flags(flag)
    try:
        paddle.set_flags({flag: False})
        with pytest.raises(UserError, match=f"{flag}=0"):
            PartialFC(4, 2)
    finally:
        paddle.set_flags(before)
