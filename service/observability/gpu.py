"""The GPU's memory, as its driver sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

from cuda.bindings.runtime import cudaDeviceGetPCIBusId
from pynvml import (
    NVMLError,
    nvmlDeviceGetHandleByPciBusId,
    nvmlDeviceGetMemoryInfo,
    nvmlInit,
)

BUS_ID_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a GPU's memory; ``used`` counts every process on it."""

    used: float
    total: float


UNKNOWN = Memory(nan, nan)


def memory_reader(index: int) -> Callable[[], Memory] | None:
    """Return what reads the memory of a GPU; None where the driver does not tell.

    It gives ``UNKNOWN`` once the driver tells no more, so that a GPU that is lost takes no other metric along.

    Args:
        index: CUDA's, which counts the visible GPUs; the driver counts all, so that it is asked by the place on the bus.
    """
    error, bus_id = cudaDeviceGetPCIBusId(BUS_ID_CHARACTERS, index)
    if error:
        return None
    try:
        nvmlInit()
        handle = nvmlDeviceGetHandleByPciBusId(bus_id.split(b"\0")[0])
        nvmlDeviceGetMemoryInfo(handle)
    except NVMLError:
        return None

    def read() -> Memory:
        try:
            info = nvmlDeviceGetMemoryInfo(handle)
        except NVMLError:
            return UNKNOWN
        return Memory(float(info.used), float(info.total))

    return read
