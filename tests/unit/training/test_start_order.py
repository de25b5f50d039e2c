"""A run forks before it has threads, and watches over its ranks before it does what could hang."""

import multiprocessing.process

import paddle
import pytest
from paddle import distributed as dist

from arcface.config import TrainConfig
from arcface.distributed import process_group
from arcface.errors import UserError
from arcface.training import memory, trainer
from arcface.training.trainer import train


class Joined(Exception):
    """Ends the run where the ranks would go on together."""


@pytest.fixture
def two_ranks(monkeypatch):
    """Makes this process rank 0 of two."""
    endpoints = ["127.0.0.1:9", "127.0.0.1:10"]
    for name, value in {
        "PADDLE_TRAINERS_NUM": "2",
        "PADDLE_TRAINER_ID": "0",
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[0],
    }.items():
        monkeypatch.setenv(name, value)


class StandIn:
    """A watchdog or heartbeat that does nothing."""

    beat = begin_collective = report_failure = leave = close = lambda *_, **__: None


@pytest.fixture
def reported(two_ranks, monkeypatch):
    """A list of what this rank tells the others that it failed of."""
    failures = []
    monkeypatch.setattr(StandIn, "report_failure", lambda _, error: failures.append(error))
    for name in ("Watchdog", "Heartbeat"):
        monkeypatch.setattr(process_group, name, lambda *_: StandIn())
    monkeypatch.setattr(process_group, "start_ranks", lambda: None)
    return failures


def without_memory(*_):
    raise MemoryError("Out of memory error on GPU 3.")


def test_ranks_hear_of_a_rank_whose_data_cannot_be_opened_for_lack_of_memory(reported, monkeypatch):
    monkeypatch.setattr(trainer, "TrainingData", without_memory)
    with pytest.raises(UserError, match="^out of memory"):
        train(TrainConfig(network="Tiny", device="cpu"))
    assert reported == ["MemoryError: Out of memory error on GPU 3."]


def test_a_card_that_is_full_is_told_to_the_ranks_and_explained_by_what_is_known(reported, monkeypatch, make_data_set, tiny):
    monkeypatch.setattr(trainer, "resolve_device", lambda _: "gpu:3")
    monkeypatch.setattr(trainer, "start_device", lambda _: None)
    monkeypatch.setattr(trainer, "read_pair_sets", without_memory)
    monkeypatch.setattr(memory, "_explain", lambda _, *known: f"explained by {known}")
    with pytest.raises(UserError, match=r"explained by \(3, 2, 'gpu:3'\)"):
        train(TrainConfig(network="Tiny", data_dir=str(make_data_set(9, 3)), num_workers=0))
    assert reported == ["MemoryError: Out of memory error on GPU 3."]


@pytest.mark.parametrize("ranks", [1, 2])
def test_workers_come_before_the_watchdog_then_the_device_and_then_the_first_collective(
    ranks, request, monkeypatch, make_data_set, tiny
):
    order = []

    def recorder(what, raises=None):
        def record(*_, **__):
            order.append(what)
            if raises:
                raise raises

        return record

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", recorder("fork"))
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", recorder("kill"))
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "join", recorder("join"))
    for name in ("Watchdog", "Heartbeat"):
        monkeypatch.setattr(process_group, name, lambda *_, name=name: (order.append(name.lower()), StandIn())[1])
    monkeypatch.setattr(paddle, "set_device", recorder("device"))
    monkeypatch.setattr(dist, "init_parallel_env", recorder("collective", Joined()))
    if ranks > 1:
        request.getfixturevalue("two_ranks")
    else:  # what comes after the ranks have joined
        monkeypatch.setattr("arcface.training.trainer.read_pair_sets", recorder("sets", Joined()))
    config = TrainConfig(network="Tiny", data_dir=str(make_data_set(9, 3)), device="cpu", num_workers=1)
    with pytest.raises(Joined):
        train(config)
    expected = ["watchdog", "heartbeat", "device", "collective"] if ranks > 1 else ["device", "sets"]
    assert order == ["fork", *expected, "kill", "join"]
