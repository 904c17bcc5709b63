"""What the hardware could do at most, measured: multiply-adds of a large product, and bytes copied."""

import time
from collections.abc import Callable

import torch

REPEATS = 10  # of what measures a rate
SQUARE = {"cuda": 8192, "cpu": 1024}  # side of the matrices multiplied
COPIED = {"cuda": 1 << 30, "cpu": 1 << 26}  # bytes


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return multiply-adds × 2 a second of one large product, in the precision that convolutions use."""
    torch.backends.cuda.matmul.allow_tf32 = True
    side = SQUARE[device]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return float(2 * side**3 / _fastest_s(lambda: a @ b, device))


def copy_rate(device: str) -> float:
    """Return bytes read and written a second."""
    source = torch.zeros(COPIED[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED[device] / _fastest_s(lambda: target.copy_(source), device)


def _fastest_s(work: Callable[[], object], device: str) -> float:
    def once() -> float:
        begun_at = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun_at

    return min(once() for _ in range(REPEATS))
