"""ONNX Runtime: a session for every subnetwork of a bundle on one device, and how long its runs take."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from model.bundle import Bundle
from service.images import Pixels

MAX_THREADS = 4  # the networks are small: more threads wait for each other longer than they compute
WARM_UP_RUNS = 5  # the first run of a cell allocates and is not counted

Profile = dict[str, dict[int, float]]


class RuntimeUnavailable(Exception):
    """The device asked for cannot be used; the message is one line that says why."""


class Device:
    """The sessions of a bundle on one device.

    Args:
        name: ``cpu`` or ``cuda:0``.
        sessions: by the subnetwork's name.
        shares_cores: whether its runs leave no core to the event loop.
    """

    def __init__(
        self, name: str, sessions: dict[str, ort.InferenceSession], *, shares_cores: bool
    ) -> None:
        self.name = name
        self.shares_cores = shares_cores
        self._sessions = sessions

    def run(self, subnetwork: str, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of N images, each uint8 (H, W, 3)."""
        images = np.stack(batch) if len(batch) > 1 else batch[0][np.newaxis]  # (N, H, W, 3)
        outputs = self._sessions[subnetwork].run(("probabilities",), {"images": images})
        probabilities: NDArray[np.float32] = outputs[0]
        return probabilities


def open_device(bundle: Bundle, *, device: Literal["auto", "cpu", "cuda"], threads: int) -> Device:
    """Create a session for every subnetwork, on the GPU where one can be used.

    Args:
        bundle: the verified bundle.
        device: ``auto`` falls back to the CPU, ``cuda`` does not.
        threads: CPU threads of one run; 0 chooses by the cores at hand.

    Raises:
        RuntimeUnavailable: ``cuda`` was asked for and ONNX Runtime cannot use it, or a graph does not load.
    """
    # All sessions share one pool, and the process has one: an earlier call's stays.
    run_threads = threads or default_threads()
    with suppress(Fail):
        ort.set_global_thread_pool_sizes(run_threads, 1)
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
            session = _open_session(str(path), cuda=wants_cuda)
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
        return Device("cuda:0", sessions, shares_cores=False)
    return Device("cpu", sessions, shares_cores=run_threads >= cores())


def cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux, where a process may be kept to some of them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return the CPU threads of one run: one core is left to the event loop and the decoding."""
    return min(max(cores() - 1, 1), MAX_THREADS)


def measure_run_latency(
    device: Device,
    subnetworks: Iterable[str],
    batch_sizes: Sequence[int],
    *,
    image: Pixels,
    budget_s: float,
    clock: Callable[[], float],
) -> Profile:
    """Return the median run latency of every (subnetwork, batch size), in seconds.

    Args:
        device: where to run.
        subnetworks: their names.
        batch_sizes: the sizes to measure.
        image: what to run.
        budget_s: time for all; a cell that overruns its share is measured once after its first run.
        clock: seconds, monotonic.
    """
    names = list(subnetworks)
    share_s = budget_s / (len(names) * len(batch_sizes))
    return {
        name: {
            size: _median_run_s(device, name, [image] * size, share_s, clock)
            for size in batch_sizes
        }
        for name in names
    }


def warm_up_batch_sizes(max_batch: int) -> list[int]:
    """Return 1, 2, 4, … and ``max_batch``."""
    powers = [2**i for i in range(max_batch.bit_length()) if 2**i < max_batch]
    return [*powers, max_batch]


def _median_run_s(
    device: Device,
    subnetwork: str,
    batch: Sequence[Pixels],
    share_s: float,
    clock: Callable[[], float],
) -> float:
    started_at = clock()
    device.run(subnetwork, batch)
    seen_s: list[float] = []
    while len(seen_s) < WARM_UP_RUNS and (not seen_s or clock() - started_at < share_s):
        run_at = clock()
        device.run(subnetwork, batch)
        seen_s.append(clock() - run_at)
    return median(seen_s)


def _open_session(path: str, *, cuda: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3  # errors; its warnings are about nodes left on the CPU
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda:
        # The heuristic search spares start-up a trial of every algorithm at every batch size.
        cuda_options = {"cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, ("CUDAExecutionProvider", cuda_options))
    return ort.InferenceSession(path, options, providers=providers)
