"""Copies on a stream of CUDA, against a runtime of CUDA's functions on the CPU's memory; the real one needs a GPU."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_array_equal

from model.bundle import Bundle
from model.sessions import open_session
from service.engine.devices import cuda as copies
from service.engine.devices.cuda import CapturedRuns, CudaError, StreamCopies, WaitingCopies
from tests.service.conftest import random_batch

Copy = tuple[int, int, int]  # to, from, bytes


class Kind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class QueueingRuntime(SimpleNamespace):
    """CUDA's runtime as its bindings give it, on host memory: a download is done when its stream is waited for."""

    cudaHostAllocDefault, cudaStreamNonBlocking, cudaMemcpyKind = 0, 1, Kind

    def __init__(self) -> None:
        super().__init__()
        self.allocated: dict[int, ctypes.Array[ctypes.c_ubyte]] = {}
        self.streams = 0
        self.queued: dict[int, list[Copy]] = {}
        self.error = 0

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return 0, 2

    def cudaSetDevice(self, gpu: int) -> tuple[int]:
        assert gpu < 2
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int | None]:
        assert flags == self.cudaStreamNonBlocking
        if self.error:
            return self.error, None
        self.streams += 1
        self.queued[self.streams] = []
        return 0, self.streams

    def cudaHostAlloc(self, n_bytes: int, flags: int) -> tuple[int, int]:
        assert flags == self.cudaHostAllocDefault
        memory = (ctypes.c_ubyte * n_bytes)(*b"\xff" * n_bytes)
        self.allocated[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self.allocated[address]
        return (0,)

    def cudaMemcpyAsync(
        self, to: int, source: int, n_bytes: int, kind: Kind, stream: int
    ) -> tuple[int]:
        host = to if kind == Kind.cudaMemcpyDeviceToHost else source
        assert n_bytes == len(self.allocated[host])
        if kind == Kind.cudaMemcpyHostToDevice:
            ctypes.memmove(to, source, n_bytes)  # the run, which is not queued here, comes after it
        else:
            self.queued[stream].append((to, source, n_bytes))
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        for copy in self.queued[stream]:
            ctypes.memmove(*copy)
        self.queued[stream].clear()
        return (0,)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, b"CUDA driver version is insufficient for CUDA runtime version"


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueingRuntime]:
    runtime = QueueingRuntime()
    monkeypatch.setattr(copies, "_IDLE_STREAMS", {})
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, runtime)
    yield runtime
    gc.collect()


@pytest.fixture
def session(bundle: Bundle) -> ort.InferenceSession:
    return open_session(bundle.graph_path(bundle.manifest.subnetworks[0]), threads=1)


def test_batches_that_travel_on_a_stream_are_answered_as_any_others(
    runtime: QueueingRuntime, session: ort.InferenceSession, bundle: Bundle
) -> None:
    on_stream, waiting = (
        CapturedRuns(session, [1, 2, 4], device_type="cpu", copies=each, warn=pytest.fail)
        for each in (StreamCopies(), WaitingCopies())
    )

    for n in (3, 1, 4, 3, 2):
        batch = random_batch(n, bundle)
        assert_array_equal(on_stream(batch), waiting(batch))


def test_a_session_is_told_its_stream_and_its_runs_not_to_wait(runtime: QueueingRuntime) -> None:
    first, second = StreamCopies(), StreamCopies()

    assert first.provider_options == {"user_compute_stream": "1"}
    assert second.provider_options == {"user_compute_stream": "2"}
    assert first.run_options == {"disable_synchronize_execution_providers": "1"}


def test_what_a_session_leaves_is_freed_and_its_stream_taken_by_the_next_on_its_gpu(
    runtime: QueueingRuntime,
) -> None:
    used = StreamCopies()
    array = used.allocate((2, 3), np.float32)
    assert_array_equal(array, np.zeros((2, 3), np.float32))
    assert len(runtime.allocated) == 1

    del array, used
    gc.collect()

    assert not runtime.allocated
    StreamCopies(gpu=1)
    assert runtime.streams == 2
    StreamCopies()
    assert runtime.streams == 2


def test_a_refusal_of_cuda_gives_its_reason(runtime: QueueingRuntime) -> None:
    runtime.error = 35

    with pytest.raises(CudaError, match=r"cudaStreamCreateWithFlags: CUDA driver version"):
        StreamCopies()
