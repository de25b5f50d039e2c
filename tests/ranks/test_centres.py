"""Centres begin without a copy of all of them."""

from pathlib import Path


def test_memory_at_the_start_is_centres_momentum_and_little_else(run_ranks):
    printed = run_ranks(1, Path(__file__).parents[1] / "helpers" / "centres_worker.py").stdout
    assert 1.5 < float(printed) < 2.3  # times the centres: they and their momentum, and a block
