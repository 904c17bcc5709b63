"""A network of one's own as the server calls it: bytes go in, calibrated probabilities come out.

All that is added is of operators that mean the same in every opset from 7 on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.graphs.edits import drop_unused, fold_constants, strip_notes
from training.importing.files import Network

PREFIX = "imported."  # of every name within the network, so that none is one of those around it
OLDEST_IR = 4  # of files whose weights are no inputs
LUMA = (0.299, 0.587, 0.114)  # red, green and blue in grey, as Pillow mixes them
SMALLEST_PROBABILITY = 1e-7  # half precision rounds what is smaller to 0, which has no logarithm


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a network's images are shifted and scaled by, for pixels from 0 to 1: one number, or one a channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network gives.

    Attributes:
        classes: how many numbers an image.
        are_probabilities: whether they are; logits otherwise.
    """

    classes: int
    are_probabilities: bool


class _Chain:
    """Nodes, each of which takes what the last gave."""

    def __init__(self, graph: onnx.GraphProto, start: str) -> None:
        self.graph = graph
        self.last = start

    def then(self, operator: str, *constants: tuple[str, NDArray[Any]], **attributes: Any) -> None:
        """Add a node with further inputs that are constants."""
        for name, values in constants:
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        output = f"{self.last}.{operator}"
        inputs = [self.last, *(name for name, _ in constants)]
        self.graph.node.append(helper.make_node(operator, inputs, [output], output, **attributes))
        self.last = output

    def end(self, name: str) -> None:
        """Name what the last node gives."""
        self.graph.node.append(helper.make_node("Identity", [self.last], [name], name))
        self.last = name


def wrap(
    network: Network,
    size: int,
    normalisation: Normalisation,
    answers: Answers | None = None,
) -> onnx.ModelProto:
    """Return a graph that takes ``images`` uint8 (N, H, W, 3) and gives ``logits`` and ``probabilities`` (N, classes).

    Args:
        network: is left as it is.
        size: height and width of the images.
        normalisation: of networks that take floats.
        answers: what the network gives; unless that is known, the graph gives it as it is, as ``logits``.
    """
    own = onnx.compose.add_prefix(network.model, PREFIX).graph
    graph = onnx.GraphProto(name="imported")
    graph.initializer.extend(_plain(tensor) for tensor in own.initializer)
    _add_input(graph, network, normalisation)
    for number, node in enumerate(own.node):
        if node.op_type == "Constant":
            graph.initializer.append(_constant(node))
        else:
            node.name = node.name or f"{PREFIX}{node.op_type}.{number}"
            graph.node.append(node)
    if network.batch is not None:
        _open_batch(graph, network.batch)
    _add_output(graph, network, answers)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])
    graph.input.append(images)
    model = onnx.ModelProto(
        ir_version=max(network.model.ir_version, OLDEST_IR),
        producer_name=network.model.producer_name,
        opset_import=network.model.opset_import,
        graph=graph,
    )
    strip_notes(model.graph)
    fold_constants(model)
    drop_unused(model.graph)
    return model


def _add_input(graph: onnx.GraphProto, network: Network, normalisation: Normalisation) -> None:
    """Add what makes the network's input of bytes (N, H, W, 3)."""
    chain = _Chain(graph, "images")
    is_first = network.layout == "nchw"
    if network.channels == 1:
        chain.then("Cast", to=TensorProto.FLOAT)
        chain.then("MatMul", ("luma", np.array(LUMA, np.float32)[:, np.newaxis]))
    if is_first:  # bytes are moved, not floats
        chain.then("Transpose", perm=[0, 3, 1, 2])
    if not network.takes_bytes:
        if network.channels == 3:
            chain.then("Cast", to=TensorProto.FLOAT)
        shape = (-1, 1, 1) if is_first else (-1,)
        mean, std = (
            np.array(each, np.float64).reshape(shape)
            for each in (normalisation.mean, normalisation.std)
        )
        chain.then("Sub", ("shift", (255 * mean).astype(np.float32)))
        chain.then("Mul", ("scale", (1 / (255 * std)).astype(np.float32)))
    if network.type != TensorProto.FLOAT:
        chain.then("Cast", to=network.type)
    chain.end(PREFIX + network.input)


def _add_output(graph: onnx.GraphProto, network: Network, answers: Answers | None) -> None:
    """Add what makes logits and probabilities of the network's output."""
    chain = _Chain(graph, PREFIX + network.output.name)
    chain.then("Cast", to=TensorProto.FLOAT)
    if answers is None:
        chain.end("logits")
        dims = network.output.type.tensor_type.shape.dim
        unknown = [None] * (len(dims) or 2)
        graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, unknown))
        return
    chain.then("Reshape", ("shape", np.array([-1, answers.classes])))
    if answers.are_probabilities:
        chain.then("Max", ("smallest", np.array(SMALLEST_PROBABILITY, np.float32)))
        chain.then("Log")
    chain.end("logits")
    chain.then("Div", ("temperature", np.array(1, np.float32)))
    chain.then("Softmax", axis=1)
    chain.end("probabilities")
    for name in ("logits", "probabilities"):
        shape: list[str | int | None] = ["batch", answers.classes]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _plain(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a tensor with its values as bytes, whichever way they were written."""
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """Return what a node gives that has no input."""
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.from_array(numpy_helper.to_array(value), node.output[0])
    kind = np.float32 if attribute.name.startswith("value_float") else np.int64
    return numpy_helper.from_array(np.array(value, kind), node.output[0])


def _open_batch(graph: onnx.GraphProto, batch: int) -> None:
    """Let shapes that were written for a number of images follow the number that comes."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for number, node in enumerate(graph.node):
        if node.op_type == "Reshape" and node.input[1] in constants:
            shape = numpy_helper.to_array(constants[node.input[1]]).tolist()
            if shape and shape[0] == batch:
                shape[0] = 0 if -1 in shape else -1
                name = f"{PREFIX}shape.{number}"
                graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
                node.input[1] = name
                zeros = [each for each in node.attribute if each.name == "allowzero"]
                for attribute in zeros:  # with it, a 0 is no more what the input has
                    node.attribute.remove(attribute)
