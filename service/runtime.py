"""ONNX Runtime: a session for every subnetwork of a bundle on one device, and how long its runs take."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.bundle import Bundle
from model.sessions import cores, open_session
from service.captured import CapturedRuns
from service.images import Pixels

MAX_THREADS = 4  # the networks are small: more threads wait for each other longer than they compute
WARM_UP_RUNS = 5  # the first run of a cell allocates and is not counted

# The heuristic search spares start-up a trial of every algorithm at every batch size.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
CUDA_GRAPHS = {"enable_cuda_graph": "1"}

RunImages = Callable[[Sequence[Pixels]], NDArray[np.float32]]
Profile = dict[str, dict[int, float]]
TimeRun = Callable[[str, int], Awaitable[float]]  # subnetwork, batch size; seconds


class RuntimeUnavailable(Exception):
    """The device asked for cannot be used; the message is one line that says why."""


class Device:
    """The subnetworks of a bundle on one device.

    Args:
        name: ``cpu`` or ``cuda:0``.
        runs: what runs a batch, by the subnetwork's name.
        shares_cores: whether its runs leave no core to the event loop.
        gpu: the index of the GPU, if it is one; batches are then padded to the next size that was warmed up.
    """

    def __init__(
        self, name: str, runs: dict[str, RunImages], *, shares_cores: bool, gpu: int | None = None
    ) -> None:
        self.name = name
        self.gpu = gpu
        self.shares_cores = shares_cores
        self._runs = runs

    def run(self, subnetwork: str, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of N images, each uint8 (H, W, 3)."""
        return self._runs[subnetwork](batch)

    def close(self) -> None:
        """Give the memory of its sessions back."""
        self._runs.clear()


def open_device(
    bundle: Bundle,
    *,
    device: Literal["auto", "cpu", "cuda"],
    threads: int,
    batch_sizes: Sequence[int],
    warn: Callable[[str], None],
) -> Device:
    """Create a session for every subnetwork, on the GPU where one can be used.

    Args:
        bundle: the verified bundle.
        device: ``auto`` falls back to the CPU, ``cuda`` does not.
        threads: CPU threads of one run; 0 chooses by the cores at hand.
        batch_sizes: that will be warmed up, ascending; no batch is larger than the last.
        warn: is told what will be slower than it could be, and why.

    Raises:
        RuntimeUnavailable: ``cuda`` was asked for and ONNX Runtime cannot use it, or a graph does not load.
    """
    if device == "cpu":
        return open_cpu_device(bundle, threads=threads)
    try:
        return _open_cuda_device(bundle, batch_sizes, warn)
    except RuntimeUnavailable as error:
        if device == "cuda":
            raise RuntimeUnavailable(f"ANYTIME_DEVICE is cuda, but {error}") from error
        if has_cuda():
            warn(f"not on the GPU: {error}")
        return open_cpu_device(bundle, threads=threads)


def has_cuda() -> bool:
    """Whether this ONNX Runtime is one for GPUs."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


def open_cpu_device(bundle: Bundle, *, threads: int) -> Device:
    """Create a session for every subnetwork on the CPU.

    Raises:
        RuntimeUnavailable: a graph does not load.
    """
    run_threads = threads or default_threads()
    runs: dict[str, RunImages] = {
        name: partial(_run_session, _open(path, threads=run_threads))
        for name, path in _graphs(bundle)
    }
    return Device("cpu", runs, shares_cores=run_threads >= cores())


def _run_session(session: ort.InferenceSession, batch: Sequence[Pixels]) -> NDArray[np.float32]:
    images = np.stack(batch) if len(batch) > 1 else batch[0][np.newaxis]  # (N, H, W, 3)
    outputs = session.run(("probabilities",), {"images": images})
    probabilities: NDArray[np.float32] = outputs[0]
    return probabilities


def _open_cuda_device(
    bundle: Bundle, batch_sizes: Sequence[int], warn: Callable[[str], None]
) -> Device:
    if not has_cuda():
        raise RuntimeUnavailable("this ONNX Runtime has no CUDA; install onnxruntime-gpu")
    ort.preload_dlls()
    runs: dict[str, RunImages] = {}
    for name, path in _graphs(bundle):
        try:
            session = _open(path, threads=1, cuda=CUDA_OPTIONS | CUDA_GRAPHS)
        except RuntimeUnavailable as error:
            session = _open(path, threads=1, cuda=CUDA_OPTIONS)
            warn(f"no CUDA graphs: {error}")
        if session.get_providers()[0] != "CUDAExecutionProvider":  # it has only printed why
            raise RuntimeUnavailable("ONNX Runtime cannot use a GPU; what it printed says why")
        warn_of = partial(_warn_of, warn, name)
        runs[name] = CapturedRuns(session, batch_sizes, device_type="cuda", warn=warn_of)
    return Device("cuda:0", runs, shares_cores=False, gpu=0)


def _warn_of(warn: Callable[[str], None], subnetwork: str, reason: str) -> None:
    warn(f"{subnetwork}: {reason}")


def _graphs(bundle: Bundle) -> Iterator[tuple[str, Path]]:
    """Give the name and the file of every subnetwork."""
    for subnetwork in bundle.manifest.subnetworks:
        yield subnetwork.name, bundle.graph_path(subnetwork)


def _open(
    path: Path, *, threads: int, cuda: Mapping[str, str] | None = None
) -> ort.InferenceSession:
    try:
        return open_session(path, threads=threads, cuda=cuda)
    except Exception as error:  # ONNX Runtime has no common base of its errors
        raise RuntimeUnavailable(f"{path}: {str(error).splitlines()[0]}") from error


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


def padded(profile: Profile) -> Profile:
    """Return a profile of every batch size up to the largest, where a batch costs what the next size in it does."""

    def latency_s(cells: dict[int, float], size: int) -> float:
        return cells[min(each for each in cells if each >= size)]

    return {
        name: {size: latency_s(cells, size) for size in range(1, max(cells) + 1)}
        for name, cells in profile.items()
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
