"""Template-based verification: figures computed by hand or by the obvious loops, and flat memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_files import refusal, write

from arcface.verification import templates
from arcface.verification.ijb import read_protocol
from arcface.verification.roc import roc, tar_at_far
from arcface.verification.templates import aggregate, image_features, score

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=150)

# Of the images of protocol_files.LIST. By hand, template 10: media 7 is the mean of (4, 0) and (2, 0), media 8 is (0, 4),
# together (3, 4). 20: (0, 2). 30: the mean of (1, 7) and (5, 1) is (3, 4). 40: (8, -6).
FEATURES = np.array([[4, 0], [2, 0], [0, 4], [0, 2], [1, 7], [5, 1], [8, -6]], np.float32)
TEMPLATE_FEATURES = [[0.6, 0.8], [0, 1], [0.6, 0.8], [0.8, -0.6]]
# The cosines of the pairs: 0.8 (same), 1, 0.8, 0 (same), -0.6, 0.


def obvious_aggregate(features, template_ids, media):
    sums = {}
    for template in sorted(set(template_ids)):
        members = [i for i, t in enumerate(template_ids) if t == template]
        total = np.zeros(features.shape[1])
        for one in {media[i] for i in members}:
            frames = [features[i].astype(np.float64) for i in members if media[i] == one]
            total += sum(frames) / len(frames)
        sums[template] = total
    return sums


def test_a_small_protocol_gives_the_figures_computed_by_hand(tmp_path):
    protocol = read_protocol(write(tmp_path))
    assert protocol.name == "ijbx" and protocol.directory == tmp_path / "IJB-X" / "images"
    assert protocol.images.tolist() == [b"%d.jpg" % name for name in range(1, 8)]
    assert protocol.templates.dtype == np.int64 and protocol.templates.tolist() == [10, 10, 10, 20, 30, 30, 40]
    assert protocol.media.dtype == np.int64 and protocol.media.tolist() == [7, 7, 8, 7, 9, 9, 1]
    assert protocol.landmarks is None and protocol.detector_scores is None
    assert (protocol.positives, protocol.negatives) == (2, 4)

    ids, features = aggregate(FEATURES, protocol.templates, protocol.media)
    assert ids.dtype == np.int64 and ids.tolist() == [10, 20, 30, 40]
    assert features.dtype == np.float32 and features == pytest.approx(np.array(TEMPLATE_FEATURES))

    result = score(protocol.pairs_file, ids, features)
    assert result.thresholds == pytest.approx([np.inf, 1, 0.8, 0, -0.6], abs=2**-20)
    assert result.true_accepts.tolist() == [0, 0, 1, 2, 2]
    assert result.false_accepts.tolist() == [0, 1, 2, 3, 4]
    points = tar_at_far(result, [0.25, 0.5, 0.75, 1, 0.2])
    assert [point.tar for point in points] == [0, 0.5, 1, 1, None]
    assert [point.threshold for point in points[:3]] == pytest.approx([1, 0.8, 0], abs=2**-20)


# image_features


def test_the_options_weigh_images_as_insightface_does():
    plain, flipped, scores = np.array([[3, 4], [0, 5]], np.float32), np.array([[3, 4], [8, 1]], np.float32), np.array([0.5, 2])

    def features(**chosen):
        return image_features(plain, flipped, scores, **{"flip": False, "norm_score": True, "detector_score": False, **chosen})

    assert features().tolist() == [[3, 4], [0, 5]]
    assert features(flip=True).tolist() == [[6, 8], [8, 6]]
    assert features(detector_score=True).tolist() == [[1.5, 2], [0, 10]]
    assert features(norm_score=False) == pytest.approx(np.array([[0.6, 0.8], [0, 1]]))
    every = features(flip=True, norm_score=False, detector_score=True)
    assert every.dtype == np.float32 and every == pytest.approx(np.array([[0.3, 0.4], [1.6, 1.2]]))
    assert plain.tolist() == [[3, 4], [0, 5]] and flipped.tolist() == [[3, 4], [8, 1]]


def test_a_zero_embedding_stays_zero_without_a_warning(recwarn):
    zeros = np.zeros((1, 4), np.float32)
    assert not image_features(zeros, None, flip=False, norm_score=False, detector_score=False).any()
    assert not aggregate(zeros, np.array([5]), np.array([5]))[1].any()
    assert not recwarn.list


def test_detector_scores_that_are_asked_for_but_missing_are_an_error():
    zeros = np.zeros((1, 4), np.float32)
    with pytest.raises(ValueError, match="without detector_scores"):
        image_features(zeros, zeros, flip=True, norm_score=True, detector_score=True)


# aggregate

images = st.tuples(st.integers(1, 4), st.integers(0, 3), st.lists(st.integers(-8, 8), min_size=3, max_size=3))


@thorough
@given(st.lists(images, min_size=1, max_size=40), st.sampled_from([1, 2, 5, 1000]))
def test_aggregation_is_the_obvious_one_however_it_is_cut(rows, at_a_time):
    template_ids, media, features = (list(column) for column in zip(*rows, strict=True))
    features = np.array(features, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "AGGREGATE_IMAGES", at_a_time)
        ids, result = aggregate(features, np.array(template_ids), np.array(media))
    expected = obvious_aggregate(features, template_ids, media)
    assert ids.tolist() == list(expected) and result.shape == (len(ids), 3)
    for row, total in zip(result, expected.values(), strict=True):
        if (norm := np.linalg.norm(total)) > 1e-9:  # sums of zero but for rounding have no direction
            assert row == pytest.approx(total / norm, abs=1e-5)


@pytest.mark.parametrize("shapes", [((3,), (3,), (3,)), ((3, 2), (2,), (2,)), ((3, 2), (3,), (2,)), ((0, 2), (0,), (0,))])
def test_arrays_that_are_not_those_of_images_are_an_error(shapes):
    features, ids, media = (np.ones(shape, int) for shape in shapes)
    with pytest.raises(ValueError, match="not those of n images"):
        aggregate(features, ids, media)


# score


def random_pairs(pairs: int, dimension: int = 16, people: int = 60):
    """Returns template ids with gaps, unit features, and a list of pairs as an array [pairs, 3]."""
    generator = np.random.default_rng(pairs)
    ids = np.sort(generator.choice(10_000, people, replace=False))
    features = generator.normal(size=(people, dimension)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = generator.integers(0, people, (pairs, 2))
    return ids, features, np.column_stack([ids[rows], generator.random(pairs) < 0.3])


def text(pairs: np.ndarray, line="{} {} {}\n") -> bytes:
    return "".join(line.format(*pair) for pair in pairs.tolist()).encode()


@pytest.mark.parametrize("line", ["{} {} {}\n", "{}\t{} {}\r\n", "  {}   {} {} \n\n"], ids=["plain", "windows", "untidy"])
@pytest.mark.parametrize("block_bytes", [1, 7, 100, 4096, 2**30])
def test_streaming_is_as_holding_everything_whatever_the_block(tmp_path, line, block_bytes):
    ids, features, pairs = random_pairs(3000)
    path = tmp_path / "pairs.txt"
    path.write_bytes(text(pairs, line).removesuffix(b"\n"))
    result = score(path, ids, features, block_bytes)
    rows = np.searchsorted(ids, pairs[:, :2])
    held = np.clip(np.einsum("ij,ij->i", features[rows[:, 0]], features[rows[:, 1]]), -1, 1).astype(np.float64)
    expected = roc(np.floor(held * 2**20) / 2**20, pairs[:, 2] == 1)
    for attribute in ("thresholds", "true_accepts", "false_accepts"):
        assert getattr(result, attribute).tolist() == getattr(expected, attribute).tolist()
    for threshold, true, false in zip(result.thresholds, result.true_accepts, result.false_accepts, strict=True):
        accepted = held >= threshold
        assert true == np.count_nonzero(accepted & (pairs[:, 2] == 1)) and false == np.count_nonzero(accepted & (pairs[:, 2] == 0))


def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path):
    ids, features, pairs = random_pairs(200_000)
    path, content = tmp_path / "pairs.txt", text(pairs)
    peaks = []
    for times in (1, 10):
        path.write_bytes(content * times)
        tracemalloc.start()
        result = score(path, ids, features)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.positives + result.negatives == 200_000 * times
    assert abs(peaks[1] - peaks[0]) < 1e6 and max(peaks) < 250e6


def test_similarities_of_one_and_minus_one_are_counted(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("1 1 1\n1 2 0\n")
    for x, y in np.random.default_rng(0).normal(size=(20, 2)):
        unit = np.array([x, y]) / np.hypot(x, y)  # in float32 some have a dot product above 1 with themselves
        result = score(path, np.array([1, 2]), np.stack([unit, -unit]).astype(np.float32))
        assert result.thresholds == pytest.approx([np.inf, 1, -1], abs=2**-20) and (abs(result.thresholds[1:]) <= 1).all()


@pytest.mark.parametrize(
    "features, complaint",
    [
        (np.eye(2) * 2, "L2-normalised"),
        (np.eye(3), "not those of t"),
        (np.ones(2), "not those of t"),
    ],
)
def test_features_that_cannot_be_compared_are_an_error(tmp_path, features, complaint):
    with pytest.raises(ValueError, match=complaint):
        score(tmp_path / "pairs.txt", np.array([1, 2]), features)


def test_a_template_whose_feature_is_not_finite_is_named(tmp_path):
    message = refusal(score, tmp_path / "pairs.txt", np.array([1, 20]), np.array([[1, 0], [np.nan, 0]]))
    assert "template 20 is not finite" in message
