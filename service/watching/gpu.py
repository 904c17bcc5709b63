"""The GPU's memory, as its driver sees it."""

from collections.abc import Callable
from dataclasses import dataclass

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

    used: int
    total: int


def memory_reader(index: int) -> Callable[[], Memory] | None:
    """Return what reads the memory of a GPU; None where the driver does not tell.

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
        info = nvmlDeviceGetMemoryInfo(handle)
        return Memory(int(info.used), int(info.total))

    return read
