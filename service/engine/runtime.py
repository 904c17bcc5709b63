"""ONNX Runtime: a session for every subnetwork of a bundle on one device, and how long its runs take."""

import importlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.bundle import Bundle
from model.cores import cores
from model.images import Pixels
from model.sessions import open_session
from service.engine.cuda_graphs import CapturedRuns
from service.engine.precision import Profile, int8_name
from service.engine.transfers import Copies, CudaError, StreamCopies, WaitingCopies

MAX_THREADS = 4  # the networks are small: more threads wait for each other longer than they compute
WARM_UP_RUNS = 5

# The heuristic search spares start-up a trial of every algorithm at every batch size.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
CUDA_GRAPHS = {"enable_cuda_graph": "1"}
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

RunImages = Callable[[Sequence[Pixels]], NDArray[np.float32]]
DeviceChoice = Literal["auto", "cpu", "cuda", "tensorrt"]
TimeRun = Callable[[str, int], Awaitable[float]]  # subnetwork, batch size; seconds


class RuntimeUnavailable(Exception):
    """The device asked for cannot be used; the message is one line that says why."""


class Device:
    """The subnetworks of a bundle on one device.

    Args:
        name: ``cpu``, ``cuda:0`` or ``tensorrt:0``.
        runs: what runs a batch, by the subnetwork's name, and in int8 by ``int8_name`` of it.
        shares_cores: whether its runs leave no core to what is done outside them.
        gpu: the index of the GPU, if it is one; batches are then padded to the next size that was warmed up.
    """

    def __init__(
        self, name: str, runs: dict[str, RunImages], *, shares_cores: bool, gpu: int | None = None
    ) -> None:
        self.name = name
        self.gpu = gpu
        self.shares_cores = shares_cores
        self._runs = runs

    @property
    def names(self) -> tuple[str, ...]:
        """What can be run."""
        return tuple(self._runs)

    def run(self, name: str, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of N images, each uint8 (H, W, 3)."""
        return self._runs[name](batch)

    def keep(self, chosen: Mapping[str, str]) -> None:
        """Keep one run for each subnetwork, under the subnetwork's name, and give the others' memory back."""
        self._runs = {subnetwork: self._runs[name] for subnetwork, name in chosen.items()}

    def close(self) -> None:
        """Give the memory of its sessions back."""
        self._runs.clear()


def open_device(
    bundle: Bundle,
    *,
    device: DeviceChoice,
    threads: int,
    batch_sizes: Sequence[int],
    engine_dir: Path,
    warn: Callable[[str], None],
) -> Device:
    """Create a session for every subnetwork, on the GPU where one can be used.

    Args:
        bundle: the verified bundle.
        device: ``auto`` falls back to the CPU, ``cuda`` and ``tensorrt`` do not.
        threads: CPU threads of one run; 0 chooses by the cores at hand.
        batch_sizes: that will be warmed up, ascending; no batch is larger than the last.
        engine_dir: where TensorRT keeps the engines that it builds, which takes minutes the first time.
        warn: is told what will be slower than it could be, and why.

    Raises:
        RuntimeUnavailable: a GPU was asked for and ONNX Runtime cannot use it so, or a graph does not load.
    """
    if device == "cpu":
        return open_cpu_device(bundle, threads=threads)
    try:
        if device == "tensorrt":
            return _open_tensorrt_device(bundle, batch_sizes, engine_dir, warn)
        return _open_cuda_device(bundle, batch_sizes, warn)
    except RuntimeUnavailable as error:
        if device != "auto":
            raise RuntimeUnavailable(f"ANYTIME_DEVICE is {device}, but {error}") from error
        if has_cuda():
            warn(f"not on the GPU: {error}")
        return open_cpu_device(bundle, threads=threads)


def has_cuda() -> bool:
    """Whether this ONNX Runtime is one for GPUs."""
    return CUDA in ort.get_available_providers()


def open_cpu_device(bundle: Bundle, *, threads: int) -> Device:
    """Create a session for every subnetwork on the CPU, and one more for those that the bundle has in int8 too.

    Raises:
        RuntimeUnavailable: a graph does not load.
    """
    run_threads = threads or default_threads()
    runs: dict[str, RunImages] = {
        name: partial(_run_session, _open(path, threads=run_threads))
        for name, path in (*_graphs(bundle), *_int8_graphs(bundle))
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
    _load_cuda()
    runs: dict[str, RunImages] = {}
    for name, path in _graphs(bundle):
        warn_of = partial(_warn_of, warn, name)
        copies = _open_copies(warn_of)
        options, sizes = CUDA_OPTIONS | copies.provider_options, batch_sizes
        try:
            session = _open_on_gpu(path, {CUDA: options | CUDA_GRAPHS})
        except RuntimeUnavailable as error:
            session = _open_on_gpu(path, {CUDA: options})
            sizes = batch_sizes[-1:]
            warn_of(f"no CUDA graphs: {error}")
        runs[name] = CapturedRuns(session, sizes, device_type="cuda", copies=copies, warn=warn_of)
    return Device("cuda:0", runs, shares_cores=False, gpu=0)


def _open_tensorrt_device(
    bundle: Bundle, batch_sizes: Sequence[int], engine_dir: Path, warn: Callable[[str], None]
) -> Device:
    """Create sessions whose graphs TensorRT compiles, one engine a subnetwork for all batch sizes.

    An engine is a few launches, so that none is captured. What TensorRT cannot run is left to CUDA.
    """
    _load_cuda()
    with suppress(ImportError):  # then they are the system's
        importlib.import_module("tensorrt")  # loads its libraries
    # TensorRT knows an engine by its graph and not by its weights: those of another bundle are kept apart. So are those
    # for other batch sizes, which it would build anew in place of these.
    largest = batch_sizes[-1]
    try:
        engines = engine_dir.expanduser() / f"{bundle.digest[:12]}-{largest}"
        engines.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise RuntimeUnavailable(
            f"no engines can be kept in ANYTIME_ENGINE_DIR: {error}"
        ) from error
    options = _tensorrt_options(bundle, engines, largest=largest)
    runs: dict[str, RunImages] = {
        name: CapturedRuns(
            _open_on_gpu(path, {TENSORRT: options, CUDA: CUDA_OPTIONS}),
            batch_sizes,
            device_type="cuda",
            copies=WaitingCopies(),
            warn=partial(_warn_of, warn, name),
        )
        for name, path in _graphs(bundle)
    }
    return Device("tensorrt:0", runs, shares_cores=False, gpu=0)


def _tensorrt_options(bundle: Bundle, engines: Path, *, largest: int) -> dict[str, str]:
    """Return options for engines of batch sizes 1 to ``largest`` that are built once."""
    side = bundle.manifest.preprocessing.size

    def images(size: int) -> str:
        return f"images:{size}x{side}x{side}x3"

    return {
        "trt_engine_cache_enable": "True",  # it takes no "1"
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines),
        "trt_profile_min_shapes": images(1),
        "trt_profile_opt_shapes": images(1),
        "trt_profile_max_shapes": images(largest),
        "trt_fp16_enable": str(bundle.manifest.precision == "float16"),
    }


def _open_copies(warn: Callable[[str], None]) -> Copies:
    """Return copies on a new stream, or those of ONNX Runtime where CUDA's bindings are not installed.

    Raises:
        RuntimeUnavailable: CUDA refuses.
    """
    try:
        return StreamCopies()
    except CudaError as error:
        raise RuntimeUnavailable(str(error)) from error
    except ImportError as error:
        warn(f"no page-locked memory: {error}; install cuda-bindings")
        return WaitingCopies()


def _load_cuda() -> None:
    """Load CUDA's libraries from their Python packages.

    Raises:
        RuntimeUnavailable: this ONNX Runtime is not one for GPUs.
    """
    if not has_cuda():
        raise RuntimeUnavailable("this ONNX Runtime has no CUDA; install onnxruntime-gpu")
    ort.preload_dlls()


def _open_on_gpu(path: Path, providers: Mapping[str, Mapping[str, str]]) -> ort.InferenceSession:
    """Load a graph for the first of the providers.

    Raises:
        RuntimeUnavailable: it does not load, or is not used.
    """
    session = _open(path, threads=1, gpu=providers)
    wanted = next(iter(providers))
    if session.get_providers()[0] != wanted:  # it has only printed why
        what = wanted.removesuffix("ExecutionProvider")
        raise RuntimeUnavailable(f"ONNX Runtime cannot use {what}; what it printed says why")
    return session


def _warn_of(warn: Callable[[str], None], subnetwork: str, reason: str) -> None:
    warn(f"{subnetwork}: {reason}")


def _graphs(bundle: Bundle) -> Iterator[tuple[str, Path]]:
    """Give the name and the file of every subnetwork."""
    for subnetwork in bundle.manifest.subnetworks:
        yield subnetwork.name, bundle.graph_path(subnetwork)


def _int8_graphs(bundle: Bundle) -> Iterator[tuple[str, Path]]:
    """Give the name and the file of every subnetwork in int8 that the bundle has."""
    for subnetwork in bundle.manifest.subnetworks:
        if subnetwork.int8:
            yield int8_name(subnetwork.name), bundle.graph_path(subnetwork.int8)


def _open(
    path: Path, *, threads: int, gpu: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> ort.InferenceSession:
    try:
        return open_session(path, threads=threads, gpu=gpu)
    except Exception as error:  # ONNX Runtime has no common base of its errors
        raise RuntimeUnavailable(f"{path}: {str(error).splitlines()[0]}") from error


def default_threads() -> int:
    """Return the CPU threads of one run: one core is left to the fronts."""
    return min(max(cores() - 1, 1), MAX_THREADS)


async def measure_run_latency(
    time_run: TimeRun, subnetworks: Iterable[str], batch_sizes: Sequence[int], *, budget_s: float
) -> Profile:
    """Return the median run latency of every (subnetwork, batch size), in seconds.

    All are run in rounds, so that a machine that is slow for a while slows a run of each, not every run of one: a
    subnetwork that looks slower than a better one is never run, and so never measured, again. The largest batch goes
    first, so that the small ones find the weights in the cache, as they do in a server.

    Args:
        time_run: runs a batch and returns how long that took.
        subnetworks: their names.
        batch_sizes: the sizes to measure, ascending.
        budget_s: run time for all but the first run of each, which allocates, and on a GPU is captured too; what overruns
            its share is measured once.
    """
    names = list(subnetworks)
    cells = [(name, size) for name in names for size in reversed(batch_sizes)]
    share_s = budget_s / len(cells)
    for name, size in cells:
        await time_run(name, size)
    seen_s: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    for _ in range(WARM_UP_RUNS):
        for cell in cells:
            if sum(seen_s[cell]) < share_s:
                seen_s[cell].append(await time_run(*cell))
    return {name: {size: median(seen_s[name, size]) for size in batch_sizes} for name in names}


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
