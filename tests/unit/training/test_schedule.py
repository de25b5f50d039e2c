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


def test_the_cosine_falls_from_the_peak_by_half_a_wave_to_0():
    schedule = Schedule(OptimizerOptions(schedule="cosine", num_epoch=11, warmup_epoch=1), STEPS)
    shares = {0: 1, 250: (1 + 0.5**0.5) / 2, 500: 0.5, 750: (1 - 0.5**0.5) / 2, 1000: 0}
    assert [schedule(STEPS + step) for step in shares] == pytest.approx([0.1 * share for share in shares.values()], abs=1e-12)
    rates = [schedule(step) for step in range(STEPS, 11 * STEPS)]
    assert all(after < before for before, after in zip(rates, rates[1:])) and 0 < rates[-1] < 1e-6


@pytest.mark.parametrize("batch_size, peak", [(64, 0.0125), (512, 0.1), (1024, 0.2)])
def test_the_rate_scales_with_the_global_batch_size(batch_size, peak):
    assert Schedule(OptimizerOptions(batch_size=batch_size), STEPS).peak == pytest.approx(peak)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert Schedule(OptimizerOptions(warmup_epoch=0), STEPS)(0) == pytest.approx(0.1)
