"""Runs on a GPU: buffers that stay in place, and every batch size captured as a CUDA graph.

A network of eighty small layers is launched kernel by kernel for longer than it computes. A captured graph is launched
once; it reads and writes the addresses, and has the batch size, that it was captured with, so that a batch is padded to
the next size that was. Where none can be, every batch is padded to the largest: a convolution has a plan for its last
shape only, and takes milliseconds to make another.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.images import Pixels
from service.engine.transfers import Copies

DeviceType = Literal["cuda", "cpu"]

# Kernel by kernel, before the one that is captured: they allocate and choose algorithms, which no capture can.
PLAIN_RUNS = 2
SETTLING_RUNS = 2  # one is captured, the other shows that it replays
GRAPH_ID = "gpu_graph_id"
NO_GRAPH = -1


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
