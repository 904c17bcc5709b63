"""A subnetwork as a graph, and the file that the graphs of a bundle share their weights in."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from model.fractal import FractalNet
from training.augment import Normalisation

NETWORK_PREFIX = "network."  # of the names that a graph's tensors have beside those of a checkpoint
HALF_SUFFIX = ".half"  # of a filter's name where it is stored in half precision
SHARED_BYTES = 256  # smaller tensors stay in the graph: a reference would be as large
ALIGNMENT = 64  # of tensors in the weights file, a cache line


class ServedNetwork(nn.Module):
    """A subnetwork as clients call it: scaling and normalisation before it, calibrated probabilities behind it.

    Both are float32, whatever the network between them computes in.
    """

    def __init__(
        self,
        network: FractalNet,
        normalisation: Normalisation,
        temperature: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network if dtype == torch.float32 else deepcopy(network).to(dtype)
        self.dtype = dtype
        self.shift = nn.Buffer(normalisation.mean.view(3, 1, 1) * 255)
        self.scale = nn.Buffer(1 / (normalisation.std.view(3, 1, 1) * 255))
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 (N, H, W, 3) to logits and probabilities (N, classes)."""
        # Bytes are moved, not floats, and a channel is scaled at a time: a third of the time, by ONNX Runtime.
        x = (images.permute(0, 3, 1, 2).float() - self.shift) * self.scale
        logits = self.network(x.to(self.dtype)).float()
        return logits, torch.softmax(logits / self.temperature, 1)


def graph_of(served: ServedNetwork, image_size: int) -> onnx.ModelProto:
    """Return a subnetwork as a graph.

    Batch norm stays apart from the convolutions, whose filters all subnetworks share; ONNX Runtime fuses them when
    it loads the graph.
    """
    from onnxscript import optimizer  # half a second that only an export costs

    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            served,
            (example,),
            dynamo=True,
            optimize=False,  # would fuse batch norm into the filters
            verbose=False,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    proto: onnx.ModelProto = program.model_proto
    _strip_notes(proto.graph)
    return proto


def _strip_notes(graph: onnx.GraphProto) -> None:
    """Drop what the exporter notes about the Python code behind each node: most of a file's size."""
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep to itself what torch's exporter says about torch: no torchvision, its own deprecated names."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


class WeightsFile:
    """The one file with the tensors of all graphs; equal tensors are stored once.

    So are filters in 8-bit integers that differ nowhere by more than one. Behind another batch norm the same filters are
    scaled by other factors, which moves a few that lie between two integers from the one to the other.

    Args:
        path: of the file.
        half: store filters in half precision; a graph casts them to float32, once, when it is loaded.
    """

    def __init__(self, path: Path, *, half: bool) -> None:
        self.path = path
        self.half = half
        self.size = 0
        self._offsets: dict[bytes, int] = {}
        self._integers: dict[tuple[int, ...], list[NDArray[np.int8]]] = {}

    def write(self, model: onnx.ModelProto, path: Path) -> None:
        """Write an ONNX file whose large tensors are in the weights file, and check it."""
        self._store(model.graph)
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(path)

    def _store(self, graph: onnx.GraphProto) -> None:
        """Move the large initialisers of a graph into the file."""
        casts = []
        with self.path.open("ab") as file:
            for tensor in graph.initializer:
                values = onnx.numpy_helper.to_array(tensor)
                if values.nbytes < SHARED_BYTES:
                    continue
                name = tensor.name
                if self.half and is_filter(values):
                    stored_name, to = f"{name}{HALF_SUFFIX}", onnx.TensorProto.FLOAT
                    casts.append(onnx.helper.make_node("Cast", [stored_name], [name], to=to))
                    name, values = stored_name, values.astype(np.float16)
                elif values.dtype == np.int8:
                    values = self._stored_alike(values)
                content = values.tobytes()
                if content not in self._offsets:
                    padding = -self.size % ALIGNMENT
                    self._offsets[content] = self.size + padding
                    file.write(bytes(padding) + content)
                    self.size += padding + len(content)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
                set_external_data(tensor, self.path.name, self._offsets[content], len(content))
                tensor.ClearField("raw_data")
        nodes = [*casts, *graph.node]
        graph.ClearField("node")
        graph.node.extend(nodes)

    def _stored_alike(self, values: NDArray[np.int8]) -> NDArray[np.int8]:
        """Return a stored tensor that differs from one nowhere by more than one, or that one, to be stored."""
        candidates = self._integers.setdefault(values.shape, [])
        for stored in candidates:
            if np.abs(np.subtract(stored, values, dtype=np.int16)).max() <= 1:
                return stored
        candidates.append(values)
        return values


def is_filter(values: Tensor | NDArray[Any]) -> bool:
    """Tell filters and classifier weights, which bear rounding, from scales and statistics, which may not."""
    return values.ndim > 1 and values.dtype in (torch.float32, np.float32)


def weights_of(path: Path) -> dict[str, Tensor]:
    """Return the network's weights that a graph in float has, by their names in a checkpoint; all in float32."""
    weights = {}
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name.startswith(NETWORK_PREFIX):
            name = tensor.name.removeprefix(NETWORK_PREFIX).removesuffix(HALF_SUFFIX)
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            weights[name] = torch.from_numpy(values)
    return weights
