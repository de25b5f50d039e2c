"""scikit-learn's folds, counts and area give the figures of the formulas that they replaced, to the last digit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.data.bin_file import VerificationSet
from arcface.verification.evaluator import Verification
from arcface.verification.metrics import THRESHOLDS, kfold_accuracy
from arcface.verification.report import report_pairs, write_report
from arcface.verification.roc import auc, best_threshold, roc, roc_from_counts

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=200)
value = st.integers(-4, 4).map(lambda n: n / 4) | st.floats(-1, 1)
pairs_of_both_kinds = st.lists(st.tuples(value, st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({same for _, same in pairs}) == 2
)


def reference_roc(similarities, same):
    """Thresholds, true accepts and false accepts by sorting and cumulative sums."""
    order = np.argsort(similarities)[::-1]
    values = similarities[order]
    last_of_ties = np.append(values[1:] != values[:-1], True)
    accepts = [np.append(0, np.cumsum(kind[order], dtype=np.int64)[last_of_ties]) for kind in (same, ~same)]
    return np.append(np.inf, values[last_of_ties]), *accepts


def reference_auc(curve):
    true_accepts, false_accepts = curve.true_accepts.astype(np.float64), curve.false_accepts.astype(np.float64)
    twice = np.dot(np.diff(false_accepts), true_accepts[1:] + true_accepts[:-1])
    return float(twice) / (2 * curve.positives * curve.negatives)


def reference_kfold_accuracy(distances, same, folds):
    """Accuracies and thresholds with contiguous folds by array_split, and a pass over the pairs for each threshold."""
    folds = min(folds, len(same))
    parts = zip(np.array_split(distances, folds), np.array_split(same, folds), strict=True)
    right = np.array([[np.count_nonzero((part < t) == flags) for t in THRESHOLDS] for part, flags in parts])
    best = np.argmax(right.sum(axis=0) - right, axis=1)
    sizes = [len(part) for part in np.array_split(same, folds)]
    return right[np.arange(folds), best] / sizes, THRESHOLDS[best]


def assert_same_figures(similarities, same, folds):
    curve = roc(similarities, same)
    for ours, reference in zip(
        (curve.thresholds, curve.true_accepts, curve.false_accepts), reference_roc(similarities, same), strict=True
    ):
        assert ours.dtype == reference.dtype and np.array_equal(ours, reference)
    assert auc(curve) == reference_auc(curve)
    result = kfold_accuracy(2 - 2 * similarities, same, folds)
    accuracies, thresholds = reference_kfold_accuracy(2 - 2 * similarities, same, folds)
    assert np.array_equal(result.accuracies, accuracies) and np.array_equal(result.thresholds, thresholds)
    assert (result.mean, result.std) == (accuracies.mean(), accuracies.std())


@thorough
@given(pairs_of_both_kinds, st.integers(1, 12))
def test_figures_are_the_former_ones_with_ties_and_without(pairs, folds):
    similarities, same = map(np.array, zip(*pairs, strict=True))
    assert_same_figures(similarities, same, folds)


@pytest.mark.parametrize("count, decimals", [(6000, 17), (6000, 3), (6007, 1)])
def test_figures_of_a_set_as_large_as_lfw_are_the_former_ones(count, decimals):
    generator = np.random.default_rng(count + decimals)
    same = generator.random(count) < 0.5
    similarities = np.clip(generator.normal(np.where(same, 0.6, 0.1), 0.2), -1, 1).round(decimals)
    assert_same_figures(similarities, same, 10)


@thorough
@given(pairs_of_both_kinds)
def test_a_histogram_of_the_pairs_has_their_curve(pairs):
    similarities, same = map(np.array, zip(*pairs, strict=True))
    curve, counted = roc(similarities, same), roc_from_counts(similarities, same, ~same)
    for name in ("thresholds", "true_accepts", "false_accepts"):
        assert np.array_equal(getattr(curve, name), getattr(counted, name))


@thorough
@given(pairs_of_both_kinds)
def test_no_threshold_at_all_makes_fewer_mistakes_than_the_best(pairs):
    similarities, same = map(np.array, zip(*pairs, strict=True))

    def mistakes(threshold):
        return int(np.count_nonzero((similarities >= threshold) != same))

    values = sorted({*similarities.tolist()})
    between = [(low + high) / 2 for low, high in zip(values, values[1:], strict=False)]
    threshold, fewest = best_threshold(roc(similarities, same))
    assert fewest == mistakes(threshold) == min(map(mistakes, [np.inf, -2, *values, *between]))
    assert all(mistakes(higher) > fewest for higher in [*values, np.inf] if higher > threshold)
    assert type(threshold) is float and type(fewest) is int


def test_the_report_s_threshold_is_better_than_any_on_a_grid(tmp_path):
    # One pair of two people at 0.2612, one pair of one person at 0.2614: on a grid of 0.005 one of them is wrong.
    similarities, same = np.array([0.9, 0.2614, 0.2612, 0.1]), np.array([True, True, False, False])
    result = Verification(1.0, kfold_accuracy(2 - 2 * similarities, same), similarities, roc(similarities, same))
    one = report_pairs(VerificationSet("near", [b"\xff"] * 8, same), result)
    assert (one.threshold, one.counts) == (0.2614, (0, 0))
    assert min(np.count_nonzero((similarities >= step) != same) for step in np.arange(0, 1, 0.005)) == 1


def test_a_set_on_which_it_is_best_to_accept_none_has_a_report(tmp_path):
    similarities, same = np.array([0.1, 0.5, 0.9, 0.95]), np.array([True, False, False, False])
    result = Verification(1.0, kfold_accuracy(2 - 2 * similarities, same), similarities, roc(similarities, same))
    one = report_pairs(VerificationSet("none", [b"\xff"] * 8, same), result)
    assert (one.threshold, one.counts) == (np.inf, (0, 1))
    assert ">inf<" in write_report(tmp_path, [one], {}).read_text()
