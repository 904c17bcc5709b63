"""CUDA: a session for every subnetwork on a GPU, its runs captured as graphs."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import onnxruntime as ort

from model.bundle import Bundle
from service.engine.cuda_graphs import CapturedRuns
from service.engine.device import Device, RunImages, RuntimeUnavailable, Warn, graphs, open_graph
from service.engine.transfers import Copies, CudaError, StreamCopies, WaitingCopies, gpu_count

CUDA = "CUDAExecutionProvider"
# The heuristic search spares start-up a trial of every algorithm at every batch size.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
CUDA_GRAPHS = {"enable_cuda_graph": "1"}


def has_cuda() -> bool:
    """Whether this ONNX Runtime is one for GPUs."""
    return CUDA in ort.get_available_providers()


def load_cuda() -> None:
    """Load CUDA's libraries from their Python packages.

    Raises:
        RuntimeUnavailable: this ONNX Runtime is not one for GPUs.
    """
    if not has_cuda():
        raise RuntimeUnavailable("this ONNX Runtime has no CUDA; install onnxruntime-gpu")
    ort.preload_dlls()


def choose_gpus(wanted: int) -> range:
    """Return the GPUs to run on: so many, or with 0 all that there are; one where CUDA's bindings are missing.

    Raises:
        RuntimeUnavailable: there are fewer.
    """
    load_cuda()
    try:
        found = gpu_count()
    except ImportError:
        found = max(wanted, 1)
    except CudaError as error:
        raise RuntimeUnavailable(str(error)) from error
    if wanted > found:
        raise RuntimeUnavailable(f"there are {found} GPUs, and ANYTIME_DEVICES is {wanted}")
    return range(wanted or max(found, 1))


def open_cuda_device(bundle: Bundle, gpu: int, *, batch_sizes: Sequence[int], warn: Warn) -> Device:
    """Create the sessions on one GPU.

    Args:
        bundle: the verified bundle.
        gpu: its index.
        batch_sizes: that will be warmed up, ascending; no batch is larger than the last.
        warn: is told what will be slower.

    Raises:
        RuntimeUnavailable: the GPU cannot be used, or a graph does not load.
    """
    load_cuda()
    runs: dict[str, RunImages] = {}
    for name, path in graphs(bundle):
        warn_own = partial(warn_of, warn, name)
        copies = _open_copies(gpu, warn_own)
        options = CUDA_OPTIONS | {"device_id": str(gpu)} | copies.provider_options
        sizes = batch_sizes
        try:
            session = open_on_gpu(path, {CUDA: options | CUDA_GRAPHS})
        except RuntimeUnavailable as error:
            session = open_on_gpu(path, {CUDA: options})
            sizes = batch_sizes[-1:]
            warn_own(f"no CUDA graphs: {error}")
        runs[name] = CapturedRuns(
            session, sizes, device_type="cuda", gpu=gpu, copies=copies, warn=warn_own
        )
    return Device(f"cuda:{gpu}", runs, gpu=gpu)


def open_on_gpu(path: Path, providers: Mapping[str, Mapping[str, str]]) -> ort.InferenceSession:
    """Load a graph for the first of the providers.

    Raises:
        RuntimeUnavailable: it does not load, or is not used.
    """
    session = open_graph(path, threads=1, gpu=providers)
    wanted = next(iter(providers))
    if session.get_providers()[0] != wanted:  # it has only printed why
        what = wanted.removesuffix("ExecutionProvider")
        raise RuntimeUnavailable(f"ONNX Runtime cannot use {what}; what it printed says why")
    return session


def warn_of(warn: Warn, subnetwork: str, reason: str) -> None:
    """Warn of what will be slower in one subnetwork."""
    warn(f"{subnetwork}: {reason}")


def _open_copies(gpu: int, warn: Warn) -> Copies:
    """Return copies on a new stream, or those of ONNX Runtime where CUDA's bindings are not installed.

    Raises:
        RuntimeUnavailable: CUDA refuses.
    """
    try:
        return StreamCopies(gpu)
    except CudaError as error:
        raise RuntimeUnavailable(str(error)) from error
    except ImportError as error:
        warn(f"no page-locked memory: {error}; install cuda-bindings")
        return WaitingCopies()
