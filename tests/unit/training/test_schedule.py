"""The learning rate is the published recipe's, and a pure function of the step."""

import pytest

from arcface.config import OptimizerOptions
from arcface.training.schedule import Schedule

STEPS = 100  # an epoch


def test_warm_up_is_linear_and_never_0():
    schedule = Schedule(OptimizerOptions(), STEPS)
    rates = [schedule(step) for step in range(STEPS)]
    assert rates == pytest.approx([0.1 * (step + 1) / STEPS for step in range(STEPS)])
    assert min(rates) > 0 and schedule(STEPS) == pytest.approx(0.1)


def test_the_seed_recipe_decays_tenfold_at_epochs_6_12_18_and_24():
    schedule = Schedule(OptimizerOptions(), STEPS)
    assert schedule.total_steps == 32 * STEPS
    for count, epoch in enumerate((6, 12, 18, 24)):
        assert schedule(epoch * STEPS - 1) == pytest.approx(0.1 * 0.1**count)
        assert schedule(epoch * STEPS) == pytest.approx(0.1 * 0.1 ** (count + 1))


def test_the_polynomial_falls_from_the_peak_towards_0():
    schedule = Schedule(OptimizerOptions(schedule="poly", num_epoch=12, poly_power=2.0), STEPS)
    assert schedule(STEPS) == pytest.approx(0.1)
    assert schedule(STEPS + 550) == pytest.approx(0.1 * 0.25)
    rates = [schedule(step) for step in range(STEPS, 12 * STEPS)]
    assert all(after < before for before, after in zip(rates, rates[1:])) and rates[-1] > 0


@pytest.mark.parametrize("batch_size, peak", [(64, 0.0125), (512, 0.1), (1024, 0.2)])
def test_the_rate_scales_with_the_global_batch_size(batch_size, peak):
    assert Schedule(OptimizerOptions(batch_size=batch_size), STEPS).peak == pytest.approx(peak)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert Schedule(OptimizerOptions(warmup_epoch=0), STEPS)(0) == pytest.approx(0.1)
