"""The card that this process computes on is asked about, by stand-ins of the driver's libraries, and nothing hangs."""

import ctypes
import threading
from types import SimpleNamespace

import paddle
import pytest

from arcface.system import card, hardware
from arcface.system.card import CardUse, card_figures, card_use
from arcface.system.hardware import DeviceMemory, device_memory

# CUDA's order, as CUDA_VISIBLE_DEVICES=GPU-<a UUID>,0,3,1 makes it; NVML knows all cards of the machine.
BUS_IDS = [b"0000:C1:00.0", b"0000:01:00.0", b"0000:81:00.0", b"0000:41:00.0"]
GIB = 2**30


class Driver:
    """libcuda and libnvidia-ml of a machine whose card with the n-th bus id has n + 1 GiB free and is busy for n tenths."""

    def __init__(self):
        self.no_utilisation = self.no_library = False
        self.asked, self.reached, self.answers = 0, threading.Event(), threading.Event()
        self.answers.set()

    def open(self, name: str):
        if self.no_library:
            raise OSError(f"{name}: cannot open shared object file")
        return SimpleNamespace(
            **{function: getattr(self, function) for function in dir(self) if function.startswith(("cu", "nvml"))}
        )

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, number, ordinal):
        number._obj.value = ordinal + 100
        return 0 if ordinal < len(BUS_IDS) else 101

    def cuDeviceGetPCIBusId(self, text, length, number):
        text.value = BUS_IDS[number.value - 100]
        return 0

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus_id, handle):
        handle._obj.value = sorted(BUS_IDS).index(bus_id.value) + 1000
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        self.asked += 1
        self.reached.set()
        self.answers.wait(10)
        memory._obj.free = (handle.value - 999) * GIB
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle, rates):
        rates._obj.gpu = (handle.value - 1000) * 10
        return 3 if self.no_utilisation else 0


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", driver.open)
    card._card.cache_clear()
    yield driver
    card._card.cache_clear()


@pytest.fixture
def on_gpu_3(driver, monkeypatch):
    """This process computes on gpu:3, a card with 8 GiB of which Paddle holds 3 GiB and has held 5."""
    properties = SimpleNamespace(name="NVIDIA A10", total_memory=8 * GIB)
    for name, value in (("get_device_properties", properties), ("memory_reserved", 3 * GIB), ("max_memory_reserved", 5 * GIB)):
        monkeypatch.setattr(paddle.device.cuda, name, lambda device, value=value: {"gpu:3": value}[device])
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:3")
    return driver


@pytest.mark.parametrize("device, place", [("gpu:0", 3), ("gpu:1", 0), ("gpu:2", 2), ("gpu:3", 1)])
def test_the_card_is_the_one_that_cuda_means(driver, device, place):
    assert card_use(device) == CardUse((place + 1) * GIB, place / 10)


def test_a_driver_that_fails_or_is_missing_tells_nothing(driver):
    assert card_use("gpu:4") is None
    driver.no_library = True
    assert card_use("gpu:1") is None


def test_a_driver_that_hangs_is_waited_for_once_and_asked_no_more(driver, monkeypatch):
    monkeypatch.setattr(card, "SECONDS_TO_ANSWER", 0.01)
    driver.answers.clear()
    assert card_use("gpu:1") is None and driver.reached.wait(30)
    monkeypatch.setattr(card, "SECONDS_TO_ANSWER", 30)  # not waited for
    assert card_use("gpu:1") is None and driver.asked == 1
    asking = next(thread for thread in threading.enumerate() if "ask" in thread.name)
    driver.answers.set()
    asking.join(30)
    assert card_use("gpu:1") == CardUse(GIB, 0)


def test_a_run_records_the_use_of_its_card(on_gpu_3):
    assert card_figures() == {"card_memory_bytes": 5 * GIB, "card_utilisation": 0.1}
    on_gpu_3.no_utilisation = True
    assert card_figures() == {"card_memory_bytes": 5 * GIB}


def test_nothing_is_recorded_or_asked_on_a_cpu(driver):
    driver.no_library = True
    assert paddle.get_device() == "cpu" and card_figures() == {}


def test_the_memory_of_a_card_is_what_is_free_for_all_processes(on_gpu_3):
    assert device_memory("gpu:3") == DeviceMemory(8 * GIB, 2 * GIB, "the NVIDIA A10")


def test_without_the_driver_the_memory_of_a_card_is_what_this_process_left(on_gpu_3, monkeypatch):
    monkeypatch.setattr(hardware, "card_use", lambda device: None)
    assert device_memory("gpu:3") == DeviceMemory(8 * GIB, 5 * GIB, "the NVIDIA A10")
