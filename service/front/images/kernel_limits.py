"""What the kernel holds a process to, so that a fault in a library costs that process at most."""

import resource
import sys
from pathlib import Path

PAGE_BYTES = resource.getpagesize()


def hold_memory(growth_bytes: int) -> None:
    """Let this process have so many bytes of addresses beyond those that it has now; what asks for more gets a ``MemoryError``."""
    if sys.platform == "linux":  # elsewhere the kernel does not say, or does not hold it
        held_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE_BYTES
        _lower(resource.RLIMIT_AS, held_bytes + growth_bytes)


def hold_cpu_time(seconds: int) -> None:
    """Have this process ended by SIGXCPU once it has used so much of a core's time."""
    _lower(resource.RLIMIT_CPU, seconds)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, hard))
