"""Identification: figures worked out by hand, and by slow obvious code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface.verification import identification
from arcface.verification.identification import Identification, Searches, rank_rates, search, tpir_at_fpir

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=100)

# Unit vectors in the plane by their angles in degrees: the similarity falls with the angle between them.
GALLERY = [(0, 1), (40, 2), (90, 3)]  # angle, identity
PROBES = [(5, 1), (25, 2), (30, 1), (120, 7), (20, 8), (90, 3)]


def unit(degrees) -> np.ndarray:
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=-1).astype(np.float32)


def searched(probes=PROBES, gallery=GALLERY) -> Searches:
    (angles, ids), (gallery_angles, gallery_ids) = zip(*probes, strict=True), zip(*gallery, strict=True)
    return search(unit(angles), np.array(ids), unit(gallery_angles), np.array(gallery_ids))


def test_three_entries_give_the_figures_worked_out_by_hand():
    found = searched()
    # 5 is nearest to 0, its mate; 25 to 40, its mate; 30 to 40, and then to 0, its mate; 7 and 8 have none; 90 is its mate.
    assert found.ranks.tolist() == [1, 1, 2, 0, 0, 1]
    assert found.highest == pytest.approx(np.cos(np.radians([5, 15, 10, 30, 20, 0])), abs=1e-6)
    assert rank_rates([found], (1, 2)) == {1: 0.75, 2: 1.0}
    # Of the two without a mate, 8 is 20 degrees from its nearest entry and 7 is 30. FPIR 0.5 allows one of them: the lowest
    # similarity observed above that of 7 is that of 8, and the three first mates reach it.
    point, never = tpir_at_fpir(found, (0.5, 0.1))
    assert point.tar == 0.75 and point.threshold == pytest.approx(np.cos(np.radians(20)), abs=1e-6)
    assert never.tar is None and never.threshold is None


def test_a_mate_that_is_not_first_never_counts():
    found = searched([(30, 1), (5, 1), (0, 9), (60, 8)])
    # The probe 9 equals an entry and is the one of two that FPIR 0.5 allows. The lowest similarity above that of 8, 20 degrees, is
    # that of the probe at 5 degrees: the one at 30, whose mate is second, counts at no threshold.
    assert tpir_at_fpir(found, (0.5,))[0] == (0.5, 0.5, pytest.approx(np.cos(np.radians(5)), abs=1e-6))
    assert tpir_at_fpir(searched([(5, 1), (90, 3)]), (0.1,))[0].tar is None  # every probe has a mate


def test_an_equally_similar_entry_of_another_identity_is_before_the_mate():
    constant = np.tile(np.float32([1, 0]), (4, 1))
    assert search(constant[:1], np.array([2]), constant, np.array([1, 2, 3, 4])).ranks.tolist() == [4]


def test_the_best_of_several_images_of_an_identity_counts():
    assert searched([(80, 1)], [(0, 1), (70, 2), (79, 1), (85, 1)]).ranks.tolist() == [1]
    assert searched([(80, 1)], [(0, 1), (80, 2), (79, 3), (77, 1)]).ranks.tolist() == [3]


def obvious(probes, probe_ids, gallery, gallery_ids):
    """Rank and highest similarity of each probe by sorting a list."""
    for probe, identity in zip(probes, probe_ids, strict=True):
        entries = [(float(probe @ entry), other != identity) for entry, other in zip(gallery, gallery_ids, strict=True)]
        entries.sort(key=lambda entry: (-entry[0], not entry[1]))  # others before mates of the same similarity
        ranks = [place for place, (_, is_other) in enumerate(entries, 1) if not is_other]
        yield (ranks[0] if ranks else 0), entries[0][0]


whole = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=25)


@thorough
@given(whole, whole, st.sampled_from([1, 30, 2**24]))
def test_a_search_is_the_obvious_one_however_it_is_cut(probes, gallery, at_once):
    # Whole numbers, whose products are exact: the search itself asks for no unit vectors.
    (*probes, probe_ids), (*gallery, gallery_ids) = np.array(probes).T, np.array(gallery).T
    probes, gallery = np.float32(probes).T, np.float32(gallery).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identification, "_AT_ONCE", at_once)
        found = search(probes, probe_ids, gallery, gallery_ids)
    ranks, highest = zip(*obvious(probes, probe_ids, gallery, gallery_ids), strict=True)
    assert found.ranks.tolist() == list(ranks) and found.highest.tolist() == list(highest)


@thorough
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 9)), min_size=2, max_size=40))
def test_tpir_is_the_obvious_one_at_the_lowest_threshold_that_keeps_the_fpir(found):
    searches = Searches(np.array([rank for rank, _ in found]), np.array([similarity / 10 for _, similarity in found]))
    with_mate = [(rank, similarity / 10) for rank, similarity in found if rank]
    without = [similarity / 10 for rank, similarity in found if not rank]
    if not with_mate:
        return
    for point in tpir_at_fpir(searches, (0.1, 0.25, 0.5)):
        if not without or 1 / len(without) > point.far:
            assert point.tar is None
            continue
        seen = sorted({np.inf, *without, *(similarity for rank, similarity in with_mate if rank == 1)})
        threshold = next(t for t in seen if sum(similarity >= t for similarity in without) / len(without) <= point.far)
        assert point.threshold == threshold
        assert point.tar == sum(rank == 1 and similarity >= threshold for rank, similarity in with_mate) / len(with_mate)


def test_the_mean_over_galleries_needs_a_figure_of_each():
    known, unknown = tpir_at_fpir(searched(), (0.5,))[0], tpir_at_fpir(searched(), (0.1,))[0]
    summary = list(Identification({}, [(known, known), (known, unknown)]).summary())
    assert summary == [(0.5, 0.75, "0.9397, 0.9397"), (0.5, None, "")]
