"""Ranks for the CPU start on machines with fewer GPUs than ranks."""

from arcface.distributed.self_check import round_trip
from arcface.system.processes import without_gpus


def test_the_launcher_finds_a_place_for_each_rank_where_it_sees_one_gpu(monkeypatch):
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # all that the launcher looks at, with or without that GPU
    found = round_trip("cpu", 2, 120)
    assert (found.ranks, found.backend, found.device, found.wrong) == (2, "gloo", "cpu", [])


def test_every_rank_gets_a_place():
    assert without_gpus(3) == {"CUDA_VISIBLE_DEVICES": "-1,-1,-1"}


def test_the_demo_says_so_to_the_launcher(repository):
    recipe = (repository / "Makefile").read_text().replace("\\\n", " ")
    (launch,) = [line for line in recipe.splitlines() if "paddle.distributed.launch" in line]
    assert launch.strip().startswith("CUDA_VISIBLE_DEVICES=-1,-1 ") and "--nproc_per_node 2 " in launch
