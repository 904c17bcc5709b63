"""The GPU's memory, as its driver sees it."""

from collections.abc import Callable
from dataclasses import dataclass

from pynvml import (
    NVMLError,
    nvmlDeviceGetHandleByIndex,
    nvmlDeviceGetMemoryInfo,
    nvmlInit,
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a GPU's memory; ``used`` counts every process on it."""

    used: int
    total: int


def memory_reader(index: int) -> Callable[[], Memory] | None:
    """Return what reads the memory of a GPU; None where the driver does not tell."""
    try:
        nvmlInit()
        handle = nvmlDeviceGetHandleByIndex(index)
        nvmlDeviceGetMemoryInfo(handle)
    except NVMLError:
        return None

    def read() -> Memory:
        info = nvmlDeviceGetMemoryInfo(handle)
        return Memory(int(info.used), int(info.total))

    return read
