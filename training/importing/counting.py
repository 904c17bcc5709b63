"""What a graph costs: its multiply-adds, by the shapes of a run, and its weights."""

from math import prod
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from model.cores import cores
from model.sessions import open_session
from training.importing.wrapping import PREFIX

# Operators that multiply and add, with the places of what they multiply among their inputs.
CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
TRANSPOSED = {"ConvTranspose": (0, 1)}
PRODUCTS = {
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}
FACTORS = CONVOLUTIONS | TRANSPOSED | PRODUCTS
NUMBERS = {"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8"}  # that weights are of


def macs(path: Path, image: NDArray[np.uint8]) -> int:
    """Return the multiply-adds of one image: of convolutions and matrix products.

    The graph is run with all their factors as outputs: that tells the shapes of any graph, however it makes them.

    Args:
        path: of a wrapped graph; a file is written beside it.
        image: (1, H, W, 3).
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    nodes = [node for node in graph.node if node.op_type in FACTORS]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    read = {node.input[at] for node in nodes for at in FACTORS[node.op_type]}
    wanted = sorted(read.union(node.output[0] for node in nodes) - shapes.keys() - {"images"})
    graph.ClearField("output")
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    exposed = path.with_suffix(".exposed.onnx")
    exposed.write_bytes(model.SerializeToString())
    session = open_session(exposed, threads=cores())
    values = session.run(wanted, {"images": image})
    shapes |= {name: value.shape for name, value in zip(wanted, values, strict=True)}
    return sum(_macs_of(node, shapes) for node in nodes)


def parameters(graph: onnx.GraphProto) -> int:
    """Return how many weights a wrapped network has; the statistics of batch norm are none."""
    statistics = {
        name
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:5]
    }
    return sum(
        prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.name.startswith(PREFIX)
        and tensor.name not in statistics
        and onnx.TensorProto.DataType.Name(tensor.data_type) in NUMBERS
    )


def _macs_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    first, second = (shapes[node.input[at]] for at in FACTORS[node.op_type])
    output = shapes[node.output[0]]
    if node.op_type in CONVOLUTIONS:  # each output takes a filter's numbers
        return prod(output) * prod(second[1:])
    if node.op_type in TRANSPOSED:  # each input goes through one
        return prod(first) * prod(second[1:])
    is_transposed = any(each.name == "transA" and each.i for each in node.attribute)
    return prod(output) * first[-2 if is_transposed else -1]
