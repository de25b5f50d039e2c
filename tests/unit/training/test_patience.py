"""--patience: when a run ends for lack of a new best."""

import pytest

from arcface.config import TrainConfig
from arcface.errors import UserError
from arcface.training.patience import Patience
from arcface.training.state import TrainState


def ends(patience: int, *new_bests: bool, state: TrainState | None = None) -> list[bool]:
    """Whether the run is to end, after verifications that gave a new best or not."""
    counted = Patience(TrainConfig(patience=patience), state or TrainState(), "lfw")
    return [(counted.count(new_best), counted.over)[1] for new_best in new_bests]


def test_as_many_verifications_in_a_row_without_a_new_best_end_a_run():
    assert ends(2, True, False, True, False, False) == [False, False, False, False, True]
    assert ends(0, True, *[False] * 9) == [False] * 10


def test_the_count_is_in_the_state_with_the_step_of_the_best():
    state = TrainState(step=7)
    ends(3, True, False, False, state=state)
    assert (state.best_step, state.without_best) == (7, 2)
    assert ends(3, False, state=state) == [True]


@pytest.mark.parametrize("best_by, interval, reason", [(None, 5, "--val_targets names no sets"), ("lfw", 0, "--val_interval 0")])
def test_a_run_that_does_not_verify_has_no_patience(best_by, interval, reason):
    with pytest.raises(UserError, match=f"--patience 3: {reason}"):
        Patience(TrainConfig(patience=3, val_interval=interval), TrainState(), best_by)
