"""CUDA: a session for every subnetwork on a GPU, with buffers that stay in place and every batch size captured as a graph.

A network of eighty small layers is launched kernel by kernel for longer than it computes. A captured graph is launched
once; it reads and writes the addresses, and has the batch size, that it was captured with, so that a batch is padded to
the next size that was. Where none can be, every batch is padded to the largest: a convolution has a plan for its last
shape only, and takes milliseconds to make another.

ONNX Runtime's own copies between host and device wait, each for its end. A batch in page-locked memory needs none of
that: upload, run and download are queued one behind the other on a stream of the session's own, and waited for once.
"""

import ctypes
import importlib
import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from model.bundle import Bundle
from model.images import Pixels
from service.engine.devices.device import (
    Device,
    RunImages,
    RuntimeUnavailable,
    Warn,
    graphs,
    open_graph,
)

CUDA = "CUDAExecutionProvider"
# The heuristic search spares start-up a trial of every algorithm at every batch size.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
CUDA_GRAPHS = {"enable_cuda_graph": "1"}

DeviceType = Literal["cuda", "cpu"]

# Kernel by kernel, before the one that is captured: they allocate and choose algorithms, which no capture can.
PLAIN_RUNS = 2
SETTLING_RUNS = 2  # one is captured, the other shows that it replays
GRAPH_ID = "gpu_graph_id"
NO_GRAPH = -1

Shape = tuple[int, ...]

# Of sessions that are gone, by GPU. A stream is never destroyed: ONNX Runtime may let go of it later than its copies do.
_IDLE_STREAMS: dict[int, list[int]] = {}


class CudaError(Exception):
    """CUDA refused; the message is one line that says what and why."""


class Copies(Protocol):
    """How the batches of one session travel.

    Attributes:
        provider_options: what the session has to be opened with.
        run_options: what its runs have to be given, to be queued between ``upload`` and ``download``.
    """

    provider_options: dict[str, str]
    run_options: dict[str, str]

    def allocate(self, shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
        """Return zeros in host memory that copies begin or end in, as long as this object lives."""

    def upload(self, host: NDArray[Any], device: ort.OrtValue) -> None:
        """Copy an allocated array to the device, before what is queued later."""

    def download(self, device: ort.OrtValue, host: NDArray[Any]) -> None:
        """Copy to an allocated array, behind what was queued before; it is there after ``wait``."""

    def wait(self) -> None:
        """Return when all that was queued has ended."""


class WaitingCopies:
    """ONNX Runtime's copies, from any memory to any device."""

    def __init__(self) -> None:
        self.provider_options: dict[str, str] = {}
        self.run_options: dict[str, str] = {}

    def allocate(self, shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
        """Return zeros."""
        return np.zeros(shape, dtype)

    def upload(self, host: NDArray[Any], device: ort.OrtValue) -> None:
        """Copy to the device."""
        device.update_inplace(host)

    def download(self, device: ort.OrtValue, host: NDArray[Any]) -> None:
        """Copy from the device."""
        np.copyto(host, device.numpy())

    def wait(self) -> None:
        """Return: every copy has waited."""


class StreamCopies:
    """Copies on a CUDA stream that the session's kernels run on too, from and to page-locked memory.

    Args:
        gpu: which one.

    Raises:
        ImportError: CUDA's Python bindings are missing.
        CudaError: there is no GPU to be used, as for all that is called later.
    """

    def __init__(self, gpu: int = 0) -> None:
        self._cuda = importlib.import_module("cuda.bindings.runtime")
        idle = _IDLE_STREAMS.setdefault(gpu, [])
        self._stream = idle.pop() if idle else self._new_stream(gpu)
        weakref.finalize(self, idle.append, self._stream).atexit = False
        self.provider_options: dict[str, str] = {"user_compute_stream": str(self._stream)}
        # The run is waited for together with the download.
        self.run_options: dict[str, str] = {"disable_synchronize_execution_providers": "1"}

    def allocate(self, shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
        """Return zeros in page-locked memory."""
        array_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._call("cudaHostAlloc", array_bytes, self._cuda.cudaHostAllocDefault)
        weakref.finalize(self, self._cuda.cudaFreeHost, address).atexit = False
        memory = (ctypes.c_ubyte * array_bytes).from_address(int(address))
        array: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        array.fill(0)
        return array

    def upload(self, host: NDArray[Any], device: ort.OrtValue) -> None:
        """Queue a copy to the device."""
        self._copy(device.data_ptr(), host.ctypes.data, host.nbytes, "HostToDevice")

    def download(self, device: ort.OrtValue, host: NDArray[Any]) -> None:
        """Queue a copy from the device."""
        self._copy(host.ctypes.data, device.data_ptr(), host.nbytes, "DeviceToHost")

    def wait(self) -> None:
        """Wait for the stream."""
        self._call("cudaStreamSynchronize", self._stream)

    def _new_stream(self, gpu: int) -> int:
        self._call("cudaSetDevice", gpu)  # a stream belongs to the calling thread's GPU
        # One that does not wait for the default stream, which other sessions' weights are copied on.
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def _copy(self, to: int, source: int, n_bytes: int, direction: str) -> None:
        kind = getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{direction}")
        self._call("cudaMemcpyAsync", to, source, n_bytes, kind, self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        return _call(self._cuda, function, *arguments)


def gpu_count() -> int:
    """Return how many GPUs this process sees.

    Raises:
        ImportError: CUDA's Python bindings are missing.
        CudaError: the driver cannot be used.
    """
    return int(_call(importlib.import_module("cuda.bindings.runtime"), "cudaGetDeviceCount"))


def _call(cuda: Any, function: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime and return its value, if it has one."""
    error, *values = getattr(cuda, function)(*arguments)
    if error:
        _, text = cuda.cudaGetErrorString(error)
        raise CudaError(f"{function}: {text.decode()}")
    return values[0] if values else None


class CapturedRuns:
    """The runs of one session. To be used from one thread: a graph belongs to the thread that captured it.

    Args:
        session: with graphs enabled, where ``device_type`` has them.
        sizes: the batch sizes to run, ascending.
        device_type: where the buffers are: ``cuda``, or ``cpu``, which captures nothing.
        gpu: the index of the GPU.
        copies: between the host and the buffers, which the session was opened for.
        warn: is told why a size could not be captured.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        sizes: Sequence[int],
        *,
        device_type: DeviceType,
        copies: Copies,
        warn: Callable[[str], None],
        gpu: int = 0,
    ) -> None:
        self._session = session
        self._sizes = list(sizes)
        self._device = (device_type, gpu)
        self._copies = copies
        self._warn = warn
        self._buffers: dict[int, _Buffers] = {}

    def __call__(self, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of N images, no more than the largest size."""
        return self._buffers_for(len(batch)).run(batch)

    def _buffers_for(self, n: int) -> "_Buffers":
        """Return those of the next size, once its runs are as fast as they will be."""
        size = self._sizes[bisect_left(self._sizes, n)]
        if size in self._buffers:
            return self._buffers[size]
        buffers = self._new_buffers(size, graph_id=size)
        try:
            buffers.settle()
        except Exception as error:  # ONNX Runtime has no common base of its errors
            self._warn(f"no CUDA graph of batch size {size}: {str(error).splitlines()[0]}")
            if size != self._sizes[-1]:
                self._sizes.remove(size)
                return self._buffers_for(n)
            buffers = self._new_buffers(size, graph_id=NO_GRAPH)
            buffers.settle()
        self._buffers[size] = buffers
        return buffers

    def _new_buffers(self, size: int, *, graph_id: int) -> "_Buffers":
        return _Buffers(self._session, size, self._device, self._copies, graph_id=graph_id)


class _Buffers:
    """Input and output of one batch size, on the host and on the device for good."""

    def __init__(
        self,
        session: ort.InferenceSession,
        size: int,
        device: tuple[DeviceType, int],
        copies: Copies,
        *,
        graph_id: int,
    ) -> None:
        (images,) = session.get_inputs()
        probabilities = next(o for o in session.get_outputs() if o.name == "probabilities")
        self._session = session
        self._copies = copies
        self._host_images = copies.allocate((size, *images.shape[1:]), np.uint8)
        self._host_probabilities = copies.allocate((size, *probabilities.shape[1:]), np.float32)
        self._images, self._probabilities = (
            ort.OrtValue.ortvalue_from_numpy(host.copy(), *device)
            for host in (self._host_images, self._host_probabilities)
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(images.name, self._images)
        self._binding.bind_ortvalue_output(probabilities.name, self._probabilities)
        self._graph = {GRAPH_ID: str(graph_id)}
        self._options = _run_options({**self._graph, **copies.run_options})

    def settle(self) -> None:
        """Run until the graph is captured."""
        plain, settling = _run_options({GRAPH_ID: str(NO_GRAPH)}), _run_options(self._graph)
        for options in (*[plain] * PLAIN_RUNS, *[settling] * SETTLING_RUNS):
            self._session.run_with_iobinding(self._binding, options)

    def run(self, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of N images, no more than the buffers hold."""
        n = len(batch)
        np.stack(batch, out=self._host_images[:n])  # what is behind them is not looked at
        self._copies.upload(self._host_images, self._images)
        self._session.run_with_iobinding(self._binding, self._options)
        self._copies.download(self._probabilities, self._host_probabilities)
        self._copies.wait()
        return self._host_probabilities[:n].copy()


def _run_options(entries: Mapping[str, str]) -> ort.RunOptions:
    options = ort.RunOptions()
    for name, value in entries.items():
        options.add_run_config_entry(name, value)
    return options


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
