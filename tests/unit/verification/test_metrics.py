"""The figures on distances agree with the plainest possible computation of them, on any input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.verification.metrics import THRESHOLDS, kfold_accuracy, mean_norm, squared_distances

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=150)


def contiguous_folds(pairs: int, folds: int) -> list[list[int]]:
    """What sklearn.model_selection.KFold documents: the first n % folds folds have n // folds + 1 members."""
    folds = min(folds, pairs)
    parts, start = [], 0
    for fold in range(folds):
        size = pairs // folds + (1 if fold < pairs % folds else 0)
        parts.append(list(range(start, start + size)))
        start += size
    return parts


def obvious_kfold_accuracy(distances, same, folds, thresholds):
    def right(members, threshold):
        return sum((distances[i] < threshold) == same[i] for i in members)

    accuracies, chosen = [], []
    for fold in contiguous_folds(len(same), folds):
        others = [i for i in range(len(same)) if i not in fold]
        best = thresholds[0]
        for threshold in thresholds:
            if right(others, threshold) > right(others, best):
                best = threshold
        accuracies.append(right(fold, best) / len(fold))
        chosen.append(best)
    mean = sum(accuracies) / len(accuracies)
    return mean, math.sqrt(sum((a - mean) ** 2 for a in accuracies) / len(accuracies)), accuracies, chosen


def assert_agrees(distances, same, folds, thresholds):
    result = kfold_accuracy(np.array(distances), np.array(same), folds, np.array(thresholds))
    mean, std, accuracies, chosen = obvious_kfold_accuracy(distances, same, folds, thresholds)
    assert result.accuracies.tolist() == accuracies and result.thresholds.tolist() == chosen
    assert result.mean == pytest.approx(mean, abs=1e-12) and result.std == pytest.approx(std, abs=1e-12)
    assert type(result.mean) is float and type(result.std) is float


# Few different values, so that distances equal each other and thresholds, and thresholds are equally good.
coarse = st.integers(0, 8).map(lambda n: n / 2)
fine = st.floats(0, 4, width=32)


@thorough
@given(
    st.lists(st.tuples(coarse, st.booleans()), min_size=1, max_size=37),
    st.integers(1, 12),
    st.lists(coarse, min_size=1, max_size=12),
)
def test_kfold_accuracy_is_the_obvious_one_with_ties_and_any_thresholds(pairs, folds, thresholds):
    distances, same = zip(*pairs, strict=True)
    assert_agrees(distances, same, folds, thresholds)


@thorough
@given(st.lists(st.tuples(fine, st.booleans()), min_size=1, max_size=37), st.integers(1, 12))
def test_kfold_accuracy_is_the_obvious_one_on_any_distances(pairs, folds):
    distances, same = zip(*pairs, strict=True)
    assert_agrees(distances, same, folds, THRESHOLDS[::20].tolist())


@pytest.mark.parametrize("pairs", [1, 2, 9, 10, 11, 34])
def test_kfold_accuracy_is_the_obvious_one_by_default(pairs):
    generator = np.random.default_rng(pairs)
    same = generator.random(pairs) < 0.5
    distances = np.where(same, 1.2, 1.7) + generator.normal(0, 0.4, pairs)
    result = kfold_accuracy(distances, same)
    mean, std, accuracies, chosen = obvious_kfold_accuracy(distances, same, 10, np.arange(0, 4, 0.01))
    assert result.accuracies.tolist() == accuracies and result.thresholds.tolist() == chosen
    assert (result.mean, result.std) == (pytest.approx(mean), pytest.approx(std))


def test_thresholds_are_those_of_the_protocol():
    assert THRESHOLDS.tolist() == [step * 0.01 for step in range(400)]


def test_each_fold_is_judged_with_a_threshold_chosen_on_the_others_only():
    # The last fold contradicts the rest; a threshold chosen with its help would judge it better.
    distances, same = np.array([0.5, 1.5] * 4 + [0.5, 1.5]), np.array([True, False] * 4 + [False, True])
    result = kfold_accuracy(distances, same, folds=5)
    assert result.accuracies.tolist() == [1, 1, 1, 1, 0] and result.mean == 0.8
    assert result.thresholds == pytest.approx([0.51] * 5)  # the first one above 0.5, since "<" is not "<="


@pytest.mark.parametrize("distance", [math.nan, math.inf, -math.inf])
def test_a_distance_that_is_not_finite_is_an_error(distance):
    with pytest.raises(ValueError, match="1 of 3 distances are not finite"):
        kfold_accuracy(np.array([1.0, distance, 0.1]), np.array([False, False, True]))


def test_embeddings_that_are_not_finite_end_in_an_error():
    embeddings = np.ones((8, 4), np.float32)
    embeddings[1, 2], embeddings[6, 0] = math.nan, math.inf
    with np.errstate(invalid="ignore"):
        distances = squared_distances(embeddings)
    with pytest.raises(ValueError, match="2 of 4 distances are not finite"):
        kfold_accuracy(distances, np.ones(4, bool))


def test_leave_one_out_is_the_obvious_accuracy():
    generator = np.random.default_rng(3)
    same = generator.random(60) < 0.5
    distances = np.where(same, 1.2, 1.7) + generator.normal(0, 0.4, 60)
    for folds in (60, 61, 10**9):
        assert_agrees(distances.tolist(), same.tolist(), folds, THRESHOLDS[::10].tolist())


def test_a_single_pair_does_not_crash():
    result = kfold_accuracy(np.array([0.3]), np.array([True]))
    assert result.accuracies.tolist() == [0] and result.thresholds.tolist() == [0] and result.std == 0


def test_the_arguments_are_left_as_they_were():
    distances, same = np.array([3.0, 1.0, 2.0]), np.array([0, 1, 1])
    kfold_accuracy(distances, same)
    assert distances.tolist() == [3, 1, 2] and same.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "distances, same, folds, thresholds",
    [
        ([], [], 10, THRESHOLDS),
        ([1.0], [True, False], 10, THRESHOLDS),
        ([[1.0]], [[True]], 10, THRESHOLDS),
        ([1.0], [True], 0, THRESHOLDS),
        ([1.0], [True], 10, []),
        ([1.0], [True], 10, [0.5, math.nan]),
        ([1.0], [True], 10, [[0.5]]),
    ],
)
def test_what_has_no_accuracy_is_an_error(distances, same, folds, thresholds):
    with pytest.raises(ValueError, match="pairs|at least one"):
        kfold_accuracy(np.array(distances), np.array(same, bool), folds, thresholds)


def test_squared_distances_are_those_of_unit_vectors():
    embeddings = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32) * 30
    expected = []
    for first, second in zip(embeddings[0::2].astype(float), embeddings[1::2].astype(float), strict=True):
        first, second = first / math.sqrt(sum(first**2)), second / math.sqrt(sum(second**2))
        expected.append(sum((first - second) ** 2))
    result = squared_distances(embeddings)
    assert result.shape == (100,) and result.dtype == np.float64
    assert result == pytest.approx(expected, rel=1e-12)


def test_squared_distances_go_from_0_for_the_same_direction_to_4_for_the_opposite():
    pairs = [[1, 0], [9, 0], [1, 0], [0, 5], [1, 0], [-3, 0]]
    assert squared_distances(np.array(pairs)).tolist() == [0, 2, 4]


def test_a_zero_embedding_has_a_distance_and_no_warning(recwarn):
    pairs = np.array([[0, 0], [3, 4], [0, 0], [0, 0]], np.float32)
    assert squared_distances(pairs) == pytest.approx([1, 0])
    assert not recwarn.list


@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 2, 2)])
def test_embeddings_that_are_not_of_pairs_are_an_error(shape):
    with pytest.raises(ValueError, match="2n, D"):
        squared_distances(np.ones(shape))


def test_no_pairs_have_no_distances():
    assert squared_distances(np.ones((0, 8), np.float32)).shape == (0,)


def test_mean_norm_is_the_mean_length_before_normalisation():
    norm = mean_norm(np.array([[3, 4], [0, 0], [6, 8]], np.float32))
    assert norm == 5 and type(norm) is float
    assert mean_norm(np.full((10, 4), 3e4, np.float16)) == pytest.approx(6e4, rel=1e-3)  # no overflow
