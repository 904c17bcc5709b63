"""A device: what runs batches of images in the subnetworks of a bundle, behind one interface for every kind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.bundle import Bundle
from model.images import Pixels
from model.sessions import open_session

RunImages = Callable[[Sequence[Pixels]], NDArray[np.float32]]
Warn = Callable[[str], None]  # is told what will be slower than it could be, and why


class RuntimeUnavailable(Exception):
    """The device asked for cannot be used; the message is one line that says why."""


class Device:
    """The subnetworks of a bundle on one device.

    Args:
        name: such as ``cpu:0``, ``cuda:0`` or ``tensorrt:0``.
        runs: what runs a batch, by the subnetwork's name, and in int8 by ``int8_name`` of it.
        threads: CPU threads that a run takes.
        gpu: the index of the GPU, if it is one; batches are then padded to the next size that was warmed up.
    """

    def __init__(
        self, name: str, runs: Mapping[str, RunImages], *, threads: int = 1, gpu: int | None = None
    ) -> None:
        self.name = name
        self.threads = threads
        self.gpu = gpu
        self._runs = dict(runs)

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


def graphs(bundle: Bundle) -> Iterator[tuple[str, Path]]:
    """Give the name and the file of every subnetwork."""
    for subnetwork in bundle.manifest.subnetworks:
        yield subnetwork.name, bundle.graph_path(subnetwork)


def open_graph(
    path: Path,
    *,
    threads: int,
    shares_threads: bool = True,
    gpu: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> ort.InferenceSession:
    """Load a graph; see ``open_session``.

    Raises:
        RuntimeUnavailable: it does not load.
    """
    try:
        return open_session(path, threads=threads, shares_threads=shares_threads, gpu=gpu)
    except Exception as error:  # ONNX Runtime has no common base of its errors
        raise RuntimeUnavailable(f"{path}: {str(error).splitlines()[0]}") from error
