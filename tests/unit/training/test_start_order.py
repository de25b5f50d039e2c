"""A run forks before it has threads, and watches over its ranks before it does what could hang."""

import multiprocessing.process

import paddle
import pytest
from paddle import distributed as dist

from arcface.config import TrainConfig
from arcface.distributed import process_group
from arcface.training.trainer import train


class Joined(Exception):
    """Ends the run where the ranks would go on together."""


@pytest.mark.parametrize("ranks", [1, 2])
def test_workers_come_before_the_watchdog_then_the_device_and_then_the_first_collective(ranks, monkeypatch, make_data_set, tiny):
    order = []

    def recorder(what, raises=None):
        def record(*_, **__):
            order.append(what)
            if raises:
                raise raises

        return record

    class StandIn:
        beat = begin_collective = report_failure = leave = close = lambda *_, **__: None

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", recorder("fork"))
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", recorder("kill"))
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "join", recorder("join"))
    for name in ("Watchdog", "Heartbeat"):
        monkeypatch.setattr(process_group, name, lambda *_, name=name: (order.append(name.lower()), StandIn())[1])
    monkeypatch.setattr(paddle, "set_device", recorder("device"))
    monkeypatch.setattr(dist, "init_parallel_env", recorder("collective", Joined()))
    if ranks > 1:
        endpoints = ["127.0.0.1:9", "127.0.0.1:10"]
        for name, value in {
            "PADDLE_TRAINERS_NUM": "2",
            "PADDLE_TRAINER_ID": "0",
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_CURRENT_ENDPOINT": endpoints[0],
        }.items():
            monkeypatch.setenv(name, value)
    else:  # what comes after the ranks have joined
        monkeypatch.setattr("arcface.training.trainer.read_bin_sets", recorder("sets", Joined()))
    config = TrainConfig(network="Tiny", data_dir=str(make_data_set(9, 3)), device="cpu", num_workers=1)
    with pytest.raises(Joined):
        train(config)
    expected = ["watchdog", "heartbeat", "device", "collective"] if ranks > 1 else ["device", "sets"]
    assert order == ["fork", *expected, "kill", "join"]
