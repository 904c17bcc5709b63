"""Copies between host memory and a device's.

ONNX Runtime's own wait, each for its end. On a GPU a batch in page-locked memory needs none of them: upload, run and
download are queued one behind the other on a stream of the session's own, and waited for once.
"""

import ctypes
import importlib
import weakref
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

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
