"""The file that the graphs of a bundle share their weights in. Nothing here needs torch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data

HALF_SUFFIX = ".half"  # of a filter's name where it is stored in half precision
SHARED_BYTES = 256  # smaller tensors stay in the graph: a reference would be as large
ALIGNMENT = 64  # of tensors in the weights file, a cache line


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


def is_filter(values: NDArray[Any]) -> bool:
    """Tell filters and classifier weights, which bear rounding, from scales and statistics, which may not."""
    return values.ndim > 1 and values.dtype == np.float32
