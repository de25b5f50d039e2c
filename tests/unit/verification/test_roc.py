"""The ROC and the figures drawn from it agree with the plainest possible computation of them, on any input."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.verification.roc import (
    FAR_TARGETS,
    OperatingPoint,
    Roc,
    auc,
    equal_error_rate,
    roc,
    roc_from_counts,
    tar_at_far,
    tar_band,
)

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=800)

# Few different values, so that pairs tie within a kind and between the kinds; and any values, -0.0 among them.
similarity = st.integers(-4, 4).map(lambda n: n / 4) | st.floats(-1, 1)
coarse = st.integers(-3, 3).map(lambda n: n / 3)
kinds = st.lists(coarse, min_size=1, max_size=15) | st.lists(similarity, min_size=1, max_size=15)
rates = st.fractions(0, 1, max_denominator=16).map(float) | st.floats(0, 1)


def pairs_of(positives, negatives):
    """Shuffled similarities and flags, as arrays."""
    order = np.random.default_rng(len(positives)).permutation(len(positives) + len(negatives))
    same = np.arange(len(order)) < len(positives)
    return np.array(positives + negatives, np.float64)[order], same[order]


def roc_of(positives, negatives):
    return roc(*pairs_of(positives, negatives))


def accepted(similarities, threshold):
    return sum(similarity >= threshold for similarity in similarities)


def obvious_points(positives, negatives):
    thresholds = [math.inf, *sorted(set(positives + negatives), reverse=True)]
    return [(threshold, accepted(positives, threshold), accepted(negatives, threshold)) for threshold in thresholds]


def obvious_auc(positives, negatives):
    wins = sum(Fraction((p > n) * 2 + (p == n), 2) for p in positives for n in negatives)
    return float(wins / (len(positives) * len(negatives)))


def obvious_equal_error_rate(positives, negatives):
    points = [
        (t, Fraction(fa, len(negatives)), 1 - Fraction(ta, len(positives))) for t, ta, fa in obvious_points(positives, negatives)
    ]
    for (first_threshold, first_far, first_frr), (threshold, far, frr) in itertools.pairwise(points):
        if far == frr:
            return float(far), threshold
        if far > frr:
            # The segments from (0, first_far) to (1, far) and from (0, first_frr) to (1, frr) cross at x.
            x = (first_frr - first_far) / (far - first_far - frr + first_frr)
            above = threshold if first_threshold == math.inf else first_threshold
            return float(first_far + x * (far - first_far)), above + float(x) * (threshold - above)
    raise AssertionError("the rates of the last point are 1 and 0")


def obvious_tar_and_threshold(positives, negatives, far):
    allowed = [t for t, _, false_accepts in obvious_points(positives, negatives) if false_accepts / len(negatives) <= far]
    return accepted(positives, min(allowed)) / len(positives), min(allowed)


@thorough
@given(kinds, kinds)
def test_a_roc_counts_the_pairs_at_or_above_each_distinct_similarity(positives, negatives):
    curve = roc_of(positives, negatives)
    points = list(zip(curve.thresholds.tolist(), curve.true_accepts.tolist(), curve.false_accepts.tolist(), strict=True))
    assert points == obvious_points(positives, negatives)
    assert (curve.thresholds.dtype, curve.true_accepts.dtype, curve.false_accepts.dtype) == (float, np.int64, np.int64)
    assert (curve.positives, curve.negatives) == (len(positives), len(negatives))
    assert type(curve.positives) is int and type(curve.negatives) is int
    assert curve.tar.tolist() == [true_accepts / len(positives) for _, true_accepts, _ in points]
    assert curve.far.tolist() == [false_accepts / len(negatives) for _, _, false_accepts in points]


@thorough
@given(kinds, kinds)
def test_the_area_is_how_often_a_positive_pair_is_the_more_similar_one(positives, negatives):
    assert auc(roc_of(positives, negatives)) == obvious_auc(positives, negatives)


@thorough
@given(kinds, kinds)
def test_the_equal_error_rate_is_where_the_two_error_curves_cross(positives, negatives):
    rate, threshold = equal_error_rate(roc_of(positives, negatives))
    expected_rate, expected_threshold = obvious_equal_error_rate(positives, negatives)
    assert rate == pytest.approx(expected_rate, abs=1e-15) and threshold == pytest.approx(expected_threshold, abs=1e-15)
    assert type(rate) is float and type(threshold) is float


@thorough
@given(kinds, kinds, st.lists(rates, max_size=4))
def test_tar_at_far_is_that_of_the_lowest_threshold_within_the_target(positives, negatives, targets):
    points = tar_at_far(roc_of(positives, negatives), targets)
    assert len(points) == len(targets)
    for point, target in zip(points, targets, strict=True):
        measurable = 1 / len(negatives) <= target
        tar, threshold = obvious_tar_and_threshold(positives, negatives, target) if measurable else (None, None)
        assert point == OperatingPoint(target, tar, threshold)
        assert all(type(figure) in (float, type(None)) for figure in point)


bins = st.lists(st.tuples(coarse, st.integers(0, 3), st.integers(0, 3)), max_size=12)


@thorough
@given(bins, st.sampled_from([np.int64, np.uint8, np.uint64, np.int32]))
def test_a_roc_from_counts_is_that_of_the_pairs_themselves(bins, dtype):
    bins = [*bins, (0.5, 1, 0), (-0.5, 0, 1)]  # some of both kinds
    thresholds, positives, negatives = (np.array(column) for column in zip(*bins, strict=True))
    from_counts = roc_from_counts(thresholds, positives.astype(dtype), negatives.astype(dtype))
    from_pairs = roc_of(np.repeat(thresholds, positives).tolist(), np.repeat(thresholds, negatives).tolist())
    for name in ("thresholds", "true_accepts", "false_accepts"):
        assert getattr(from_counts, name).tolist() == getattr(from_pairs, name).tolist()
        assert getattr(from_counts, name).dtype == getattr(from_pairs, name).dtype


def test_numpys_histograms_make_a_roc():
    generator = np.random.default_rng(0)
    positives, negatives = generator.uniform(0, 1, 300), generator.uniform(-1, 0.5, 500)
    counts, edges = np.histogram(positives, 400, (-1, 1))
    curve = roc_from_counts(edges[:-1], counts, np.histogram(negatives, 400, (-1, 1))[0])
    assert (curve.positives, curve.negatives) == (300, 500)
    for threshold, true_accepts, false_accepts in zip(curve.thresholds, curve.true_accepts, curve.false_accepts, strict=True):
        assert (true_accepts, false_accepts) == (accepted(positives, threshold), accepted(negatives, threshold))


def test_the_figures_of_a_set_computed_by_hand():
    #                 + 0.9   + 0.8   - 0.7   + 0.6 and - 0.6   - 0.1
    positives, negatives = [0.9, 0.8, 0.6], [0.7, 0.6, 0.1]
    curve = roc_of(positives, negatives)
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.7, 0.6, 0.1]
    assert curve.true_accepts.tolist() == [0, 1, 2, 2, 3, 3] and curve.false_accepts.tolist() == [0, 0, 0, 1, 2, 3]
    assert auc(curve) == (3 + 3 + 1.5) / 9
    assert equal_error_rate(curve) == (1 / 3, 0.7)
    assert tar_at_far(curve, [1, 0.9, 2 / 3, 0.5, 1 / 3, 0.3]) == [
        (1, 1, 0.1),
        (0.9, 1, 0.6),
        (2 / 3, 1, 0.6),
        (0.5, 2 / 3, 0.7),
        (1 / 3, 2 / 3, 0.7),
        (0.3, None, None),
    ]


def test_perfect_and_reversed_and_uninformative_sets():
    perfect, reversed_, uninformative = roc_of([0.9, 0.8], [0.2, 0.1]), roc_of([0.1], [0.9]), roc_of([0.5], [0.5])
    assert [auc(curve) for curve in (perfect, reversed_, uninformative)] == [1, 0, 0.5]
    assert equal_error_rate(perfect) == (0, 0.8)
    assert equal_error_rate(reversed_) == (1, 0.9)
    assert equal_error_rate(uninformative) == (0.5, 0.5)  # between inf and 0.5, of which only 0.5 can be set
    assert tar_at_far(reversed_, [1]) == [(1, 1, 0.1)]


def test_an_equal_error_rate_between_two_points_is_interpolated():
    # FAR goes from 0 to 1/2 and 1 - TAR from 1/4 to 0 between 0.6 and 0.4: they cross a third of the way.
    rate, threshold = equal_error_rate(roc_of([0.9, 0.8, 0.6, 0.4], [0.4, 0.1]))
    assert rate == pytest.approx(1 / 6) and threshold == pytest.approx(0.6 - 0.2 / 3)


def test_a_far_that_is_exactly_the_target_does_not_exceed_it():
    negatives = [0.9] * 3 + [0.1] * 2997
    (point,) = tar_at_far(roc_of([0.9, 0.5, 0.05, 0.1], negatives), [1e-3])
    assert point == (1e-3, 0.5, 0.5)  # 3 / 3000 is 1e-3
    (point,) = tar_at_far(roc_of([0.95, 0.9, 0.5, 0.1], [0.9, *negatives[1:], 0.9]), [1e-3])
    assert point == (1e-3, 0.25, 0.95)  # 4 / 3001 exceeds it, and all four tie


def test_a_highest_similarity_of_too_many_negatives_leaves_nothing_to_accept():
    assert tar_at_far(roc_of([0.9, 0.8], [0.9] * 30), [0.1]) == [(0.1, 0, math.inf)]


@pytest.mark.parametrize("negatives", [*range(1, 130), 1000, 10**6])
def test_as_many_negatives_as_one_false_accept_needs_are_enough(negatives):
    curve = Roc(np.array([math.inf, 0.5, 0.1]), np.array([0, 1, 1]), np.array([0, 0, negatives]))
    enough, too_few = tar_at_far(curve, [1 / negatives, math.nextafter(1 / negatives, 0)])
    assert enough.tar == 1 and too_few[1:] == (None, None)


def test_the_targets_are_the_powers_of_ten_that_the_field_reports():
    points = tar_at_far(roc_of([0.9], [0.2] * 1000))
    assert FAR_TARGETS == (0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001)
    assert [point.far for point in points] == list(FAR_TARGETS)
    assert [point.tar for point in points] == [1, 1, 1, None, None, None]


def test_counts_of_trillions_neither_overflow_nor_lose_ties():
    trillion = 10**12
    curve = roc_from_counts([0.1, 0.5, 0.9], [trillion, 0, 3 * trillion], [3 * trillion, 2 * trillion, 0])
    assert curve.true_accepts.tolist() == [0, 3 * trillion, 3 * trillion, 4 * trillion]
    assert auc(curve) == pytest.approx((3 * 5 + 0.5 * 3) / 20, rel=1e-15)
    assert equal_error_rate(roc_from_counts([0.1, 0.9], [trillion, 3 * trillion], [3 * trillion, trillion])) == (0.25, 0.9)


def exact_tars(positives, negatives, far):
    """The TAR of every equally likely resample."""
    return np.array(
        [
            obvious_tar_and_threshold(list(some_positives), list(some_negatives), far)[0]
            for some_positives in itertools.product(positives, repeat=len(positives))
            for some_negatives in itertools.product(negatives, repeat=len(negatives))
        ]
    )


@pytest.mark.parametrize("seed", range(24))
def test_the_band_has_the_percentiles_of_all_resamples(seed):
    generator = np.random.default_rng(seed)
    positives, negatives = (generator.integers(0, 8, generator.integers(1, 4)).tolist() for _ in range(2))
    fars = [1 / 3, 0.5, 0.6, 2 / 3, 1]
    low, high = tar_band(roc_of(positives, negatives), fars, resamples=100_000, seed=seed)
    for far, *band in zip(fars, low, high, strict=True):
        if 1 / len(negatives) > far:
            assert np.isnan(band).all()
            continue
        tars = exact_tars(positives, negatives, far)
        for bound, level in zip(band, (0.025, 0.975), strict=True):
            # The quantile of a discrete distribution; 0.003 is six standard errors of 100,000 resamples.
            assert (tars < bound - 1e-9).mean() <= level + 0.003 and (tars <= bound + 1e-9).mean() >= level - 0.003


def test_the_band_is_that_of_resampled_pairs():
    generator = np.random.default_rng(7)
    positives, negatives = generator.normal(0.5, 0.2, 300).round(2), generator.normal(0, 0.2, 400).round(2)
    fars = [1 / 400, 0.01, 0.03, 0.1, 0.5, 1]
    tars = []
    for _ in range(2000):
        resample = generator.choice(positives, 300).tolist(), generator.choice(negatives, 400).tolist()
        tars.append([point.tar for point in tar_at_far(roc_of(*resample), fars)])
    expected = np.percentile(tars, [2.5, 97.5], axis=0)
    band = tar_band(roc_of(positives.tolist(), negatives.tolist()), fars, resamples=20_000)
    assert band == pytest.approx(expected, abs=0.015)
    assert (expected[1] - expected[0])[:4].min() > 0.06  # so that the tolerance is narrow beside the band


def test_the_band_of_few_negatives_has_the_percentiles_of_resampled_pairs_at_every_far():
    generator = np.random.default_rng(5)
    positives, negatives = generator.uniform(0, 1, 300), np.arange(12) / 12
    fars = [accepts / 12 for accepts in range(1, 13)]
    tars = []
    for _ in range(3000):
        resample = generator.choice(positives, 300).tolist(), generator.choice(negatives, 12).tolist()
        tars.append([point.tar for point in tar_at_far(roc_of(*resample), fars)])
    band = tar_band(roc_of(positives.tolist(), negatives.tolist()), fars, resamples=50_000)
    for bound, level in zip(band, (0.025, 0.975), strict=True):
        # 0.01 is more than three standard errors of 3,000 resamples.
        assert ((tars < bound - 1e-9).mean(axis=0) <= level + 0.01).all()
        assert ((tars <= bound + 1e-9).mean(axis=0) >= level - 0.01).all()


def test_the_band_is_around_the_tar_and_the_same_for_the_same_seed():
    generator = np.random.default_rng(1)
    similarities, same = pairs_of(generator.normal(0.5, 0.2, 3000).tolist(), generator.normal(0, 0.2, 3000).tolist())
    fars = [0.001, 0.01, 0.1]
    curve = roc(similarities, same)
    low, high = tar_band(curve, fars)
    tars = [point.tar for point in tar_at_far(curve, fars)]
    assert (low < tars).all() and (tars < high).all() and low.dtype == high.dtype == float
    assert np.array_equal(tar_band(curve, fars), (low, high))
    assert not np.array_equal(tar_band(curve, fars, seed=1), (low, high))


def test_no_rates_make_an_empty_answer():
    assert tar_at_far(roc_of([1], [0]), []) == []
    assert [bound.shape for bound in tar_band(roc_of([1], [0]), [])] == [(0,), (0,)]


def test_single_precision_and_flags_0_and_1_will_do_and_the_arguments_are_left_as_they_were():
    similarities, same = np.array([0.1, 0.3, 0.2], np.float32), np.array([0, 1, 0])
    curve = roc(similarities, same)
    tar_band(curve, [1])
    assert curve.thresholds.tolist() == [math.inf, *np.sort(similarities)[::-1].tolist()]
    assert curve.true_accepts.tolist() == [0, 1, 1, 1] and curve.false_accepts.tolist() == [0, 0, 1, 2]
    assert similarities.tolist() == np.array([0.1, 0.3, 0.2], np.float32).tolist() and same.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "similarities, same, message",
    [
        ([], [], "n > 0 pairs"),
        ([0.1, 0.2], [True], "n > 0 pairs"),
        ([[0.1, 0.2]], [[True, False]], "n > 0 pairs"),
        ([0.1, 0.2], [True, True], "of one identity and pairs of two"),
        ([0.1, 0.2], [False, False], "of one identity and pairs of two"),
        ([0.1, math.nan], [True, False], "1 of 2 similarities are not finite"),
        ([math.inf, -math.inf], [True, False], "2 of 2 similarities are not finite"),
    ],
)
def test_pairs_that_have_no_roc_are_an_error(similarities, same, message):
    with pytest.raises(ValueError, match=message):
        roc(np.array(similarities), np.array(same, bool))


@pytest.mark.parametrize(
    "thresholds, positives, negatives, message",
    [
        ([0.1, 0.2], [1, 1], [1], "do not agree"),
        ([0.1], [1, 1], [1, 1], "do not agree"),
        ([[0.1]], [[1]], [[1]], "do not agree"),
        ([0.1, 0.2], [1, -1], [1, 1], "whole numbers"),
        ([0.1, 0.2], [1, 1], [0.5, 1], "whole numbers"),
        ([0.1, math.nan], [1, 1], [1, 1], "not finite"),
        ([-math.inf, 0.1], [1, 1], [1, 1], "not finite"),
        ([0.1, 0.2], [0, 0], [1, 1], "of one identity and pairs of two"),
        ([0.1], [1], [0], "of one identity and pairs of two"),
    ],
)
def test_counts_that_have_no_roc_are_an_error(thresholds, positives, negatives, message):
    with pytest.raises(ValueError, match=message):
        roc_from_counts(np.array(thresholds), np.array(positives), np.array(negatives))


@pytest.mark.parametrize("rates", [[0.1, -0.1], [1.1], [math.nan], [[0.1]], 0.1])
def test_a_rate_that_is_none_is_an_error(rates):
    with pytest.raises(ValueError, match="from 0 to 1"):
        tar_at_far(roc_of([1], [0]), rates)
    with pytest.raises(ValueError, match="from 0 to 1"):
        tar_band(roc_of([1], [0]), rates)


def test_a_band_of_no_resamples_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        tar_band(roc_of([1], [0]), [0.1], resamples=0)
