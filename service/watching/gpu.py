"""The GPU's memory, as its driver sees it."""

from collections.abc import Callable
from math import nan

from cuda.bindings.runtime import cudaDeviceGetPCIBusId
from pynvml import (
    NVMLError,
    nvmlDeviceGetHandleByPciBusId,
    nvmlDeviceGetMemoryInfo,
    nvmlInit,
)

BUS_ID_CHARACTERS = 32


def memory_reader(index: int) -> Callable[[], tuple[float, float]] | None:
    """Return what reads a GPU's memory: bytes in use, by every process on it, and in all; None where the driver does not tell.

    What it returns gives nan when the driver has stopped telling, so that a GPU that is lost takes no other metric along.

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

    def read() -> tuple[float, float]:
        try:
            info = nvmlDeviceGetMemoryInfo(handle)
        except NVMLError:
            return nan, nan
        return float(info.used), float(info.total)

    return read
