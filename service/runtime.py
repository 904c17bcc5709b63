"""ONNX Runtime: a session for every subnetwork of a bundle on one device, and how long its runs take."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from statistics import median
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.bundle import Bundle
from model.sessions import cores, open_session
from service.images import Pixels

MAX_THREADS = 4  # the networks are small: more threads wait for each other longer than they compute
WARM_UP_RUNS = 5  # the first run of a cell allocates and is not counted

Profile = dict[str, dict[int, float]]
TimeRun = Callable[[str, int], Awaitable[float]]  # subnetwork, batch size; seconds


class RuntimeUnavailable(Exception):
    """The device asked for cannot be used; the message is one line that says why."""


class Device:
    """The sessions of a bundle on one device.

    Args:
        name: ``cpu`` or ``cuda:0``.
        sessions: by the subnetwork's name.
        shares_cores: whether its runs leave no core to the event loop.
        gpu: the index of the GPU, if it is one.
    """

    def __init__(
        self,
        name: str,
        sessions: dict[str, ort.InferenceSession],
        *,
        shares_cores: bool,
        gpu: int | None = None,
    ) -> None:
        self.name = name
        self.gpu = gpu
        self.shares_cores = shares_cores
        self._sessions = sessions

    def run(self, subnetwork: str, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of N images, each uint8 (H, W, 3)."""
        images = np.stack(batch) if len(batch) > 1 else batch[0][np.newaxis]  # (N, H, W, 3)
        outputs = self._sessions[subnetwork].run(("probabilities",), {"images": images})
        probabilities: NDArray[np.float32] = outputs[0]
        return probabilities

    def close(self) -> None:
        """Give the memory of its sessions back."""
        self._sessions.clear()


def open_device(bundle: Bundle, *, device: Literal["auto", "cpu", "cuda"], threads: int) -> Device:
    """Create a session for every subnetwork, on the GPU where one can be used.

    Args:
        bundle: the verified bundle.
        device: ``auto`` falls back to the CPU, ``cuda`` does not.
        threads: CPU threads of one run; 0 chooses by the cores at hand.

    Raises:
        RuntimeUnavailable: ``cuda`` was asked for and ONNX Runtime cannot use it, or a graph does not load.
    """
    run_threads = threads or default_threads()
    wants_cuda = device != "cpu" and "CUDAExecutionProvider" in ort.get_available_providers()
    if device == "cuda" and not wants_cuda:
        raise RuntimeUnavailable(
            "ANYTIME_DEVICE is cuda, but this ONNX Runtime has no CUDA; install onnxruntime-gpu"
        )
    if wants_cuda:
        ort.preload_dlls()
    sessions: dict[str, ort.InferenceSession] = {}
    for subnetwork in bundle.manifest.subnetworks:
        path = bundle.graph_path(subnetwork)
        try:
            session = open_session(path, threads=run_threads, cuda=wants_cuda)
        except Exception as error:  # ONNX Runtime has no common base of its errors
            raise RuntimeUnavailable(f"{path}: {str(error).splitlines()[0]}") from error
        if wants_cuda and session.get_providers()[0] != "CUDAExecutionProvider":
            # ONNX Runtime falls back with a printed message only.
            if device == "cuda":
                raise RuntimeUnavailable(
                    "ANYTIME_DEVICE is cuda, but ONNX Runtime cannot use a GPU"
                )
            return open_device(bundle, device="cpu", threads=threads)
        sessions[subnetwork.name] = session
    if wants_cuda:
        return Device("cuda:0", sessions, shares_cores=False, gpu=0)
    return Device("cpu", sessions, shares_cores=run_threads >= cores())


def default_threads() -> int:
    """Return the CPU threads of one run: one core is left to the event loop and the decoding."""
    return min(max(cores() - 1, 1), MAX_THREADS)


async def measure_run_latency(
    time_run: TimeRun, subnetworks: Iterable[str], batch_sizes: Sequence[int], *, budget_s: float
) -> Profile:
    """Return the median run latency of every (subnetwork, batch size), in seconds.

    Args:
        time_run: runs a batch and returns how long that took.
        subnetworks: their names.
        batch_sizes: the sizes to measure.
        budget_s: run time for all; a cell that overruns its share is measured once after its first run.
    """
    names = list(subnetworks)
    share_s = budget_s / (len(names) * len(batch_sizes))
    return {
        name: {size: await _median_run_s(time_run, name, size, share_s) for size in batch_sizes}
        for name in names
    }


def warm_up_batch_sizes(max_batch: int) -> list[int]:
    """Return 1, 2, 4, … and ``max_batch``."""
    powers = [2**i for i in range(max_batch.bit_length()) if 2**i < max_batch]
    return [*powers, max_batch]


async def _median_run_s(time_run: TimeRun, subnetwork: str, size: int, share_s: float) -> float:
    spent_s = await time_run(subnetwork, size)
    seen_s: list[float] = []
    while len(seen_s) < WARM_UP_RUNS and (not seen_s or spent_s < share_s):
        seen_s.append(await time_run(subnetwork, size))
        spent_s += seen_s[-1]
    return median(seen_s)
