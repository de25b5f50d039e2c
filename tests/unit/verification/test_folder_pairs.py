"""The pairs of a folder of identities: the rule by hand, by slow obvious code, and the same wherever they are made."""

import hashlib
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_folders import write_folder

from arcface.data.photos import CropReader
from arcface.errors import UserError
from arcface.verification import folder_pairs
from arcface.verification.folder_pairs import make_pairs, number_of_folds, read_folder

thorough = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def test_four_identities_make_the_pairs_worked_out_by_hand():
    # Images 0 1 | 2 | 3 4 | 5. By falling number of images: A, C, B, D; dealt to and fro: A and D, C and B.
    pairs, is_same = make_pairs(np.array([2, 1, 2, 1]), 2)
    assert is_same.tolist() == [True, False, True, False]
    assert pairs[0].tolist() == [0, 1] and pairs[2].tolist() == [3, 4]
    assert set(pairs[1]) in ({0, 5}, {1, 5}) and set(pairs[3]) in ({2, 3}, {2, 4})


def obvious_pairs(identities: list[int], images: dict[int, list[int]]) -> tuple[set, set]:
    """All pairs of images of some identities: those of one, and those of two."""
    owner = {image: identity for identity in identities for image in images[identity]}
    both = [frozenset(pair) for pair in itertools.combinations(owner, 2)]
    return tuple({pair for pair in both if (len({owner[image] for image in pair}) == 1) == same} for same in (True, False))


@thorough
@given(st.lists(st.integers(1, 6), min_size=4, max_size=40), st.sampled_from([2, 5, 300]))
def test_the_pairs_are_what_the_rule_says(counts, most):
    counts = np.array(counts)
    folds = number_of_folds(counts)
    if folds < 2:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_pairs, "MOST", most)
        pairs, is_same = make_pairs(counts, folds)
    ends = np.cumsum(counts).tolist()
    images = {identity: list(range(end - count, end)) for identity, (end, count) in enumerate(zip(ends, counts, strict=True))}
    sorted_identities = sorted(images, key=lambda identity: -counts[identity])
    there_and_back = [*range(folds), *reversed(range(folds))]
    members = {fold: [] for fold in range(folds)}
    for identity, fold in zip(sorted_identities, itertools.cycle(there_and_back), strict=False):
        members[fold].append(identity)
    possible = {fold: obvious_pairs(members[fold], images) for fold in members}
    size = min(most, *(len(kind) for kinds in possible.values() for kind in kinds))
    assert len(pairs) == 2 * size * folds
    for fold in range(folds):
        block = slice(2 * size * fold, 2 * size * (fold + 1))
        made, same = [frozenset(pair) for pair in pairs[block].tolist()], is_same[block]
        assert same.tolist() == [True] * size + [False] * size
        assert len(set(made)) == len(made) and set(made[:size]) <= possible[fold][0] and set(made[size:]) <= possible[fold][1]
        # In turn: no identity gives a second pair before all have given a first.
        given = [sum(pair <= set(images[identity]) for pair in made[:size]) for identity in members[fold]]
        able = [count for identity, count in zip(members[fold], given, strict=True) if counts[identity] > 1]
        assert max(able) <= 1 or all(able)


def test_ten_folds_have_up_to_300_pairs_of_either_kind():
    pairs, is_same = make_pairs(np.full(40, 60), number_of_folds(np.full(40, 60)))
    assert pairs.shape == (6000, 2) and is_same.sum() == 3000
    assert len({frozenset(pair) for pair in pairs.tolist()}) == 6000
    by_identity = np.bincount(pairs[is_same][:, 0] // 60)
    assert by_identity.tolist() == [75] * 40  # each of a fold's four identities gives as many


def test_an_identity_is_in_the_pairs_of_one_of_scikit_learns_folds_only(tmp_path):
    from sklearn.model_selection import KFold

    write_folder(tmp_path / "people", {f"p{number:02d}": 2 + number % 3 for number in range(47)})
    pairs = read_folder(tmp_path / "people", "people", CropReader())
    owners = np.array([image.parent.name for image in pairs.images]).reshape(-1, 2)
    folds = [set(owners[members].ravel()) for _, members in KFold(pairs.folds).split(owners)]
    assert len(folds) == 10 and not any(one & other for one, other in itertools.combinations(folds, 2))
    assert ((owners[:, 0] == owners[:, 1]) == pairs.is_same).all()


def test_the_same_folder_gives_the_same_pairs_wherever_it_lies_and_however_it_is_listed(tmp_path, monkeypatch):
    counts = {f"p{number}": 1 + number % 4 for number in range(30)}
    first = read_folder(write_folder(tmp_path / "a" / "people", counts), "people", CropReader())
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda directory: real(directory)[::-1])
    second = read_folder(write_folder(tmp_path / "b" / "others", dict(reversed(counts.items()))), "others", CropReader())

    def below(pairs):
        return [image.relative_to(image.parents[1]).as_posix() for image in pairs.images]

    assert below(first) == below(second) and (first.is_same == second.is_same).all()


def test_the_pairs_are_those_of_other_machines_and_versions_of_numpy():
    pairs, _ = make_pairs(np.arange(3000) % 50 + 2, 10)  # with NumPy 1.26.4 and 2.4.6
    assert hashlib.sha256(pairs.astype("<i8").tobytes()).hexdigest()[:16] == "9ffc59702366a2cc"


def test_few_identities_have_fewer_folds_and_the_log_says_so(tmp_path):
    pairs = read_folder(write_folder(tmp_path / "people", {"a": 3, "b": 2, "c": 2, "d": 1, "e": 1, "f": 1}), "people", CropReader())
    assert pairs.folds == 3
    assert pairs.kind == f"{tmp_path / 'people'} is a folder of 6 identities: 3 pairs of one and 3 of two, in 3 folds"


@pytest.mark.parametrize(
    "counts, complaint",
    [
        ({"a": 5}, "all images are of one identity"),
        ({"a": 5, "b": 5, "c": 5}, "3 of its 3 identities have two images or more; the accuracy needs pairs of at least four"),
        ({"a": 5, "b": 1, "c": 1, "d": 1}, "1 of its 4 identities have two images or more"),
        ({name: 1 for name in "abcdefgh"}, "0 of its 8 identities have two images or more"),
        ({"a": 0}, "contains no folders of images"),
    ],
)
def test_a_folder_that_makes_no_folds_is_refused(tmp_path, counts, complaint):
    with pytest.raises(UserError) as refused:
        read_folder(write_folder(tmp_path / "people", counts), "people", CropReader())
    assert str(refused.value).startswith(f"{tmp_path / 'people'}: ") and complaint in str(refused.value)
    assert "\n" not in str(refused.value)
