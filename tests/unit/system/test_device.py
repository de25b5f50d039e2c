"""The device is chosen without touching it; a GPU that is not there, or not this rank's, is one line."""

from types import SimpleNamespace

import paddle
import pytest

from arcface.errors import UserError
from arcface.system import device, precision
from arcface.system.device import choose_device, resolve_device, search_convolutions, start_device

LAUNCHED = ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE", "FLAGS_selected_gpus", "CUDA_VISIBLE_DEVICES")


@pytest.fixture
def cards(monkeypatch):
    """Returns a function that makes Paddle find a number of GPUs, in an environment without a launcher but for what it is given."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)

    def found(count: int, capability: str = "8.0", **environment: str) -> None:
        major, minor = map(int, capability.split("."))
        gpu = SimpleNamespace(name="NVIDIA A100", major=major, minor=minor, total_memory=40 * 2**30)
        monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: count)
        monkeypatch.setattr(paddle.device.cuda, "get_device_properties", lambda _: gpu)
        # As Paddle's, which asks its core whether it is built for CUDA.
        number = int(environment.get("FLAGS_selected_gpus", "0").split(",")[0])
        ranks = int(environment.get("PADDLE_TRAINERS_NUM", "1"))
        monkeypatch.setattr(device, "ParallelEnv", lambda: SimpleNamespace(device_id=number, world_size=ranks))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return found


@pytest.fixture
def started(monkeypatch):
    """The devices that were set, and the TF32 switches, as stand-ins on a CPU."""
    devices = []
    monkeypatch.setattr(paddle, "set_device", devices.append)
    switches = {"cublas": True, "cudnn": True}
    for name in switches:
        monkeypatch.setattr(precision.core, f"get_{name}_switch", lambda name=name: switches[name], raising=False)
        set_switch = lambda allowed, name=name: switches.__setitem__(name, allowed)  # noqa: E731
        monkeypatch.setattr(precision.core, f"set_{name}_switch", set_switch, raising=False)
    return SimpleNamespace(devices=devices, switches=switches)


RANK_1_OF_2 = {"PADDLE_TRAINER_ID": "1", "PADDLE_TRAINERS_NUM": "2", "PADDLE_LOCAL_SIZE": "2", "FLAGS_selected_gpus": "1"}
ONE_A_MACHINE = {"PADDLE_TRAINER_ID": "1", "PADDLE_TRAINERS_NUM": "2", "PADDLE_LOCAL_SIZE": "1", "FLAGS_selected_gpus": "0,1"}


@pytest.mark.parametrize(
    "name, count, environment, expected",
    [
        ("cpu", 4, {}, "cpu"),
        ("auto", 0, {}, "cpu"),
        ("auto", 4, {}, "gpu:0"),
        ("gpu", 4, {}, "gpu:0"),
        ("gpu:3", 4, {}, "gpu:3"),
        ("gpu:1", 2, {"FLAGS_selected_gpus": "0"}, "gpu:1"),
        ("auto", 2, RANK_1_OF_2, "gpu:1"),
        ("cpu", 1, RANK_1_OF_2, "cpu"),
        ("gpu", 2, ONE_A_MACHINE, "gpu:0"),
    ],
)
def test_a_name_is_this_ranks_device_and_nothing_is_started(cards, started, name, count, environment, expected):
    cards(count, **environment)
    assert resolve_device(name) == expected
    assert started.devices == [] and started.switches == {"cublas": True, "cudnn": True}


@pytest.mark.parametrize(
    "name, count, environment, complaint",
    [
        ("gpu", 0, {}, "--device gpu: paddlepaddle .* finds no GPU; use --device cpu or auto"),
        ("gpu:1", 0, {}, "--device gpu:1: paddlepaddle .* finds no GPU"),
        ("gpu:3", 2, {}, "--device gpu:3: Paddle finds 2 GPUs here, numbered from 0; pass a smaller number"),
        ("gpu:1", 1, {}, "--device gpu:1: Paddle finds 1 GPU here"),
        ("gpu:0", 2, RANK_1_OF_2, "--device gpu:0: with 2 ranks, the launcher gives each its GPU; pass --device gpu, and choose"),
        ("gpu:0", 2, ONE_A_MACHINE, "--device gpu:0: with 2 ranks"),
        ("auto", 1, RANK_1_OF_2, "2 ranks run on this machine, where Paddle finds 1 GPU, .*start fewer with --nproc_per_node"),
        ("auto", 2, {"FLAGS_selected_gpus": "5"}, "FLAGS_selected_gpus=5: Paddle finds 2 GPUs here.*unset it"),
        ("gpu", 2, {**ONE_A_MACHINE, "FLAGS_selected_gpus": "2"}, "FLAGS_selected_gpus=2: Paddle finds 2 GPUs here"),
        ("auto", 2, {"FLAGS_selected_gpus": "-1"}, "FLAGS_selected_gpus=-1: Paddle finds 2 GPUs here"),
        ("gpu", 2, {"PADDLE_TRAINERS_NUM": "2"}, "PADDLE_TRAINERS_NUM=2: without FLAGS_selected_gpus all ranks take the same GPU"),
        ("tpu", 2, {}, "--device: must be auto, cpu, gpu or gpu:N, as in gpu:0, not tpu"),
        ("gpu:", 2, {}, "--device: must be"),
        ("gpu:01", 2, {}, "--device: must be"),
    ],
)
def test_a_gpu_that_is_not_there_or_not_this_ranks_is_one_line(cards, name, count, environment, complaint):
    cards(count, **environment)
    with pytest.raises(UserError, match=complaint) as raised:
        resolve_device(name)
    assert "\n" not in str(raised.value)


def test_a_launchers_variable_that_is_no_number_is_one_line(cards, monkeypatch):
    cards(2)
    monkeypatch.setattr(device, "ParallelEnv", paddle.distributed.ParallelEnv)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "two")
    with pytest.raises(UserError, match="PADDLE_TRAINERS_NUM=two: must be whole numbers"):
        resolve_device("gpu")


def test_a_driver_that_cannot_count_its_gpus_has_none(cards, monkeypatch):
    cards(1)

    def no_device():
        raise OSError("(External) CUDA error(100), no CUDA-capable device is detected.")

    monkeypatch.setattr(paddle.device.cuda, "device_count", no_device)
    assert resolve_device("auto") == "cpu"


def test_a_start_switches_tf32_off_before_the_first_kernels(cards, started, monkeypatch):
    cards(2)
    seen = []
    monkeypatch.setattr(device, "run_first_kernels", lambda name: seen.append((name, dict(started.switches))))
    assert choose_device("gpu:1") == "gpu:1"
    assert started.devices == ["gpu:1"] and seen == [("gpu:1", {"cublas": False, "cudnn": False})]


def test_a_start_on_a_cpu_runs_nothing(started, monkeypatch):
    monkeypatch.setattr(device, "run_first_kernels", None)
    start_device("cpu")
    assert started.devices == ["cpu"] and started.switches == {"cublas": True, "cudnn": True}


def test_the_search_of_convolutions_is_a_flag_of_builds_with_cuda(cards, monkeypatch):
    flags = {"FLAGS_cudnn_deterministic": False}
    monkeypatch.setattr(paddle, "set_flags", flags.update)
    monkeypatch.setattr(paddle, "get_flags", lambda names: {name: flags[name] for name in names})
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: False)
    search_convolutions()
    assert len(flags) == 1
    cards(1)
    search_convolutions()
    assert flags["FLAGS_cudnn_exhaustive_search"] is True
    flags["FLAGS_cudnn_deterministic"] = True
    with pytest.raises(UserError, match="--cudnn_search 1: FLAGS_cudnn_deterministic is set"):
        search_convolutions()
