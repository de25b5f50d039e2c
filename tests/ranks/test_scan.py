"""Rank 0 looks at the images while the others wait for it: for as long as it takes, and no longer."""

import time
from pathlib import Path

import pytest
from forks import start_ranks

WORKER = Path(__file__).parents[1] / "helpers" / "scan_worker.py"


@pytest.fixture
def ranks(fork_server, make_data_set, tmp_path):
    """Returns a function that starts two ranks of which rank 0 does something with the images."""
    started = []

    def run(what: str) -> list:
        options = ["--network=Tiny", "--device=cpu", "--val_targets=", "--batch_size=4", "--max_steps=1", "--num_workers=0"]
        places = [f"--data_dir={make_data_set(8, 2)}", f"--output={tmp_path / 'out'}", f"--logdir={tmp_path / 'log'}"]
        started.extend(start_ranks(fork_server, 2, WORKER, what, *options, *places))
        return started

    yield run
    for process in started:
        process.kill()


def test_a_scan_that_fails_is_told_by_rank_0_and_ends_the_others(ranks):
    first, second = ranks("fails")
    assert second.wait(100) == 1 and "rank 0 ended before the others" in second.stderr, second.stderr
    assert first.wait(100) == 2 and "error: image 3: cannot be decoded" in first.stderr, first.stderr


@pytest.mark.exhaustive
def test_a_scan_that_takes_longer_than_gloo_waits_is_waited_for(ranks):
    started = time.monotonic()
    for process in ranks("takes long"):
        assert process.wait(200) == 0, process.stderr
    assert time.monotonic() - started > 30
