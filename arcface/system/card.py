"""What NVIDIA's driver says of the GPU that this process computes on: free memory and utilisation.

CUDA itself is asked which card a device of Paddle's is, so CUDA_VISIBLE_DEVICES, numbers or UUIDs, and the order of unlike cards
need no reading here; NVML is asked about that card. Both libraries are part of the driver. A question takes less than a
millisecond, starts no process, and is given up where the driver does not answer.
"""

import ctypes
import threading
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import paddle

CUDA_LIBRARY, NVML_LIBRARY = "libcuda.so.1", "libnvidia-ml.so.1"
SECONDS_TO_ANSWER = 2.0  # the first answer takes longest, tens of milliseconds
PCI_BUS_ID_LENGTH = 32  # NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE, from nvml.h

_one_at_a_time = threading.Lock()  # held by a question that is still without an answer


class CardUse(NamedTuple):
    """The present use of a card, by all processes.

    free: bytes. utilisation: share of the time, lately, in which it computed; None for a card that does not count it.
    """

    free: int
    utilisation: float | None


def card_use(device: str) -> CardUse | None:
    """Return the use of the card that Paddle calls "gpu:0"...; None where the driver does not tell, or not in time."""
    if not _one_at_a_time.acquire(blocking=False):
        return None
    answers: SimpleQueue[CardUse | None] = SimpleQueue()

    def ask() -> None:
        answer = None
        try:
            answer = _ask_driver(int(device.partition(":")[2]))
        except (OSError, AttributeError):  # no such library or function, or it failed
            pass
        finally:
            _one_at_a_time.release()
            answers.put(answer)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=SECONDS_TO_ANSWER)
    except Empty:
        return None


def card_figures() -> dict[str, float]:
    """Return what a run records of its card, {} on a CPU.

    card_memory_bytes: the most that Paddle has held of it so far. card_utilisation: see CardUse; missing where unknown.
    """
    device = paddle.get_device()
    if device == "cpu":
        return {}
    figures: dict[str, float] = {"card_memory_bytes": paddle.device.cuda.max_memory_reserved(device)}
    use = card_use(device)
    if use and use.utilisation is not None:
        figures["card_utilisation"] = use.utilisation
    return figures


class _Memory(ctypes.Structure):
    """nvmlMemory_t"""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Utilisation(ctypes.Structure):
    """nvmlUtilization_t, in percent"""

    _fields_ = [(name, ctypes.c_uint) for name in ("gpu", "memory")]


def _ask_driver(ordinal: int) -> CardUse:
    nvml, card = _card(ordinal)
    memory, utilisation = _Memory(), _Utilisation()
    _check(nvml.nvmlDeviceGetMemoryInfo(card, ctypes.byref(memory)))
    unknown = nvml.nvmlDeviceGetUtilizationRates(card, ctypes.byref(utilisation))  # as on a part of a card (MIG)
    return CardUse(memory.free, None if unknown else utilisation.gpu / 100)


@cache
def _card(ordinal: int) -> tuple[Any, ctypes.c_void_p]:
    """Return NVML and its handle of the card with this number among those that CUDA shows this process."""
    cuda, nvml = ctypes.CDLL(CUDA_LIBRARY), ctypes.CDLL(NVML_LIBRARY)
    number, bus_id, card = ctypes.c_int(), ctypes.create_string_buffer(PCI_BUS_ID_LENGTH), ctypes.c_void_p()
    _check(cuda.cuInit(0))
    _check(cuda.cuDeviceGet(ctypes.byref(number), ordinal))
    _check(cuda.cuDeviceGetPCIBusId(bus_id, PCI_BUS_ID_LENGTH, number))
    _check(nvml.nvmlInit_v2())
    _check(nvml.nvmlDeviceGetHandleByPciBusId_v2(bus_id, ctypes.byref(card)))
    return nvml, card


def _check(code: int) -> None:
    if code:
        raise OSError(f"error {code} of the driver")
