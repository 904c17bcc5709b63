"""Changes to graphs: small ones that leave the classes they answer with as they are."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from training import TrainingError

STORED = "DequantizeLinear"  # its integers are what is to be stored, and computed with


def strip_notes(graph: onnx.GraphProto) -> None:
    """Drop what the exporter notes about the Python code behind each node: most of a file's size."""
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and weights that nothing reads."""
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            read.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    graph.ClearField("node")
    graph.node.extend(reversed(kept))
    graph.ClearField("initializer")
    graph.initializer.extend(weights)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute what depends on no input, such as shapes, and store it; what cannot be computed here stays."""
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    folded: list[onnx.NodeProto] = []
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        is_known = known.issuperset(filter(None, node.input)) and node.op_type != STORED
        (folded if is_known else kept).append(node)
        if is_known:
            known.update(node.output)
    made = {name for node in folded for name in node.output}
    names = sorted(made.intersection(name for node in kept for name in node.input))
    if not names:
        return
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    constants = helper.make_graph(folded, "constants", [], outputs, graph.initializer)
    part = helper.make_model(constants, opset_imports=model.opset_import)
    try:
        values = ReferenceEvaluator(part).run(None, {})
    except Exception:  # it has not every operator, and no common base of its errors
        return
    graph.initializer.extend(map(numpy_helper.from_array, values, names))
    graph.ClearField("node")
    graph.node.extend(kept)


def set_temperature(graph: onnx.GraphProto, temperature: float) -> None:
    """Set what the logits are divided by before they become probabilities.

    Raises:
        TrainingError: they are not divided by a number that is stored.
    """
    divisors = [n.input[1] for n in graph.node if n.op_type == "Div" and n.input[0] == "logits"]
    stored = [tensor for tensor in graph.initializer if tensor.name in divisors]
    if len(stored) != 1:
        raise TrainingError(f"{graph.name}: its logits are not divided by a temperature")
    value = np.array(temperature, np.float32)
    stored[0].CopyFrom(numpy_helper.from_array(value, stored[0].name))
