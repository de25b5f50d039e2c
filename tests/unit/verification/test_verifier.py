"""When a training run verifies, by which set checkpoints are compared, and what is found wrong before the first step."""

import numpy as np
import pytest

from arcface.config import NetworkOptions, VerificationOptions
from arcface.data.bin_file import VerificationSet, write_bin
from arcface.errors import UserError
from arcface.inference.engines import open_engine
from arcface.verification.evaluator import verify
from arcface.verification.sets import read_pair_sets
from arcface.verification.verifier import Verifier


@pytest.fixture(scope="module")
def images(make_data_set):
    return [path.read_bytes() for path in sorted((make_data_set(24, 3) / "images").iterdir())]


def sets_of(images, *names) -> list[VerificationSet]:
    return [VerificationSet(name, images, np.array([True, False] * 6)) for name in names]


def verifier(sets, val_interval=10, best_by=None, engine="paddle") -> Verifier:
    network = NetworkOptions(network="Tiny", embedding_size=8)
    return Verifier(sets, VerificationOptions(val_batch_size=5, engine=engine), network, val_interval, best_by)


@pytest.mark.parametrize(
    "val_interval, step, last, due",
    [(10, 10, False, True), (10, 11, False, False), (10, 13, True, True), (0, 10, False, False), (0, 10, True, True)],
)
def test_it_is_due_at_the_interval_and_at_the_end(val_interval, step, last, due):
    assert verifier([], val_interval).due(step, last) is due


def test_the_deciding_set_is_the_first_or_the_one_named(images):
    sets = sets_of(images, "a", "b")
    assert verifier(sets).best_by == "a" and verifier(sets, best_by="b").best_by == "b" and verifier([]).best_by is None
    with pytest.raises(UserError, match=r"--best_by c: not among --val_targets \(a, b\); name one of them"):
        verifier(sets, best_by="c")
    with pytest.raises(UserError, match=r"not among --val_targets \(none\)"):
        verifier([], best_by="c")


@pytest.mark.usefixtures("tiny")
def test_each_set_is_verified_with_the_weights_of_the_moment(images):
    import paddle

    from arcface.backbones import create_backbone

    paddle.seed(0)
    backbone, sets = create_backbone("Tiny", 8), sets_of(images, "a", "b")
    with open_engine("paddle", backbone, "Tiny", 8) as embed:
        expected = [verify(embed, pairs, 100).xnorm for pairs in sets]
    ours = verifier(sets)
    ours.choose_engine(backbone)
    assert [(pairs.name, result.xnorm) for pairs, result in ours.run(backbone)] == [
        (name, pytest.approx(xnorm, rel=1e-5)) for name, xnorm in zip("ab", expected)
    ]
    backbone.linear.weight.set_value(backbone.linear.weight * 2)
    backbone.linear.bias.set_value(backbone.linear.bias * 2)
    assert [result.xnorm for _, result in ours.run(backbone)] == pytest.approx([2 * xnorm for xnorm in expected], rel=1e-5)
    assert backbone.training


@pytest.mark.usefixtures("tiny")
def test_auto_becomes_an_engine_that_can_be_built_before_the_first_step(images):
    from arcface.backbones import create_backbone

    ours = verifier(sets_of(images, "a"), engine="auto")
    ours.choose_engine(create_backbone("Tiny", 8))  # other engines export in a process of their own, which knows no Tiny
    assert ours.engine == "paddle"


def test_without_sets_nothing_is_built_or_yielded():
    ours = verifier([], engine="auto")
    ours.choose_engine(None)
    assert ours.engine == "auto" and list(ours.run(None)) == []


def test_a_damaged_image_is_named_before_the_first_step(images):
    with pytest.raises(UserError, match="b.bin image 3: not an image"):
        verifier([*sets_of(images, "a"), *sets_of([*images[:3], b"damaged", *images[4:]], "b")]).check_images()


def test_a_run_may_do_without_a_set_that_is_missing_but_not_without_a_damaged_one(tmp_path):
    write_bin(tmp_path / "a.bin", [b"1", b"2", b"3", b"4"], [True, False])
    options = VerificationOptions(data_dir=str(tmp_path), val_targets="a,b")
    with pytest.raises(UserError, match=r"b.bin: cannot be read .*, or train without verification: --val_targets ''"):
        read_pair_sets(options)
    (tmp_path / "b.bin").write_bytes(b"damaged")
    with pytest.raises(UserError) as refused:
        read_pair_sets(options)
    assert "b.bin" in str(refused.value) and "without verification" not in str(refused.value)
    assert [pairs.name for pairs in read_pair_sets(VerificationOptions(data_dir=str(tmp_path), val_targets="a"))] == ["a"]
    assert read_pair_sets(VerificationOptions(val_targets="")) == []
