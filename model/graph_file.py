"""What the graph of a bundle may be: an ONNX file is looked through before ONNX Runtime is given it.

A graph may hold the few fields of ONNX and the few operators that this program writes, and tensors no larger than the
bytes that are there for them; whatever else a file holds is refused, also where it is not known here. That leaves no
operators from libraries, no code of the graph's own (functions, loops, branches), and no file but the weights to read.

The server has no ``onnx``; protobuf, which comes with ONNX Runtime, reads the file by the part of ONNX's schema that is
allowed.
"""

from functools import cache
from math import prod
from struct import iter_unpack
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

STANDARD_DOMAINS = {"", "ai.onnx"}

# Pure, and none that makes much of little (as Expand, Range, Resize and Tile do). An export with another one stops
# with its name: add it here once its largest output follows from its inputs.
OPERATORS = {
    *("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "Pow", "MatMul", "Gemm", "Conv", "Concat"),
    *("Abs", "Neg", "Reciprocal", "Sqrt", "Exp", "Log", "Floor", "Ceil", "Round", "Sign", "Erf", "Tanh"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Gelu", "Mish"),
    *("Softplus", "Softsign", "Clip", "Softmax", "LogSoftmax", "Dropout"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization", "LRN"),
    *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Pad"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
    *("Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not"),
    *("Cast", "Constant", "Identity", "Shape", "Gather", "Slice", "Split"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
}  # fmt: skip
MOST_IN_LISTS = 64  # of kernels, strides and paddings; a padding of 1,000 pixels takes gigabytes

ITEM_BYTES = {
    1: 4,
    2: 1,
    3: 1,
    6: 4,
    7: 8,
    9: 1,
    10: 2,
    11: 8,
}  # of the element types, by their numbers
INT64 = 7
EXTERNAL = 1  # data_location of a tensor whose values are in another file
EXTERNAL_KEYS = {"location", "offset", "length"}

Message = Any
"""A parsed part of the file; its class is made from ``SCHEMA``."""

# Of onnx.proto: (number, name, type) of each field that a graph may have; "*" marks a repeated one. A graph's inputs and
# outputs stay bytes: ONNX Runtime compares them with what the operators give.
SCHEMA = {
    "Pair": "1 key string, 2 value string",
    "OpSet": "1 domain string, 2 version int64",
    "Tensor": (
        "1 dims *int64, 2 data_type int32, 4 float_data *float, 5 int32_data *int32, 7 int64_data *int64, 8 name string, "
        "9 raw_data bytes, 12 doc_string string, 13 external_data *Pair, 14 data_location int32"
    ),
    "Attribute": (
        "1 name string, 2 f float, 3 i int64, 4 s bytes, 5 t Tensor, 7 floats *float, 8 ints *int64, 13 doc_string string, "
        "20 type int32"
    ),
    "Node": (
        "1 input *string, 2 output *string, 3 name string, 4 op_type string, 5 attribute *Attribute, 6 doc_string string, "
        "7 domain string, 9 metadata_props *Pair"
    ),
    "Graph": (
        "1 node *Node, 2 name string, 5 initializer *Tensor, 10 doc_string string, 11 input *bytes, 12 output *bytes, "
        "13 value_info *bytes, 16 metadata_props *Pair"
    ),
    "Model": (
        "1 ir_version int64, 2 producer_name string, 3 producer_version string, 5 model_version int64, "
        "6 doc_string string, 7 graph Graph, 8 opset_import *OpSet, 14 metadata_props *Pair"
    ),
}


class GraphRefused(Exception):
    """A file is not a graph that may be loaded; the message says why in a few words."""


def check_graph(content: bytes, *, weights_file: str, weights_bytes: int) -> None:
    """See to it that an ONNX file may be given to ONNX Runtime.

    Args:
        content: of the file.
        weights_file: the one file beside it that it may name.
        weights_bytes: the size of that.

    Raises:
        GraphRefused: it may not.
    """
    model = _model_class()()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise GraphRefused("is no ONNX file") from error
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        raise GraphRefused("has parts that no graph of a bundle has, such as functions or branches")
    if not model.graph.node:
        raise GraphRefused("has no operators")
    tensors = [*model.graph.initializer]
    constants = {tensor.name: tensor for tensor in tensors}
    if len(constants) != len(tensors):
        raise GraphRefused("names a tensor twice")
    for node in model.graph.node:
        if node.domain not in STANDARD_DOMAINS or node.op_type not in OPERATORS:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise GraphRefused(f"has the operator {name!r}, which no graph of a bundle may have")
        if node.op_type == "Pad" and len(node.input) > 1:
            _check_padding(constants.get(node.input[1]))
        for attribute in node.attribute:
            largest = max(map(abs, attribute.ints), default=0)
            if node.op_type != "Constant" and largest > MOST_IN_LISTS:
                raise GraphRefused(
                    f"{node.op_type} has {attribute.name} of {largest}, at most {MOST_IN_LISTS} is allowed"
                )
            if attribute.HasField("t"):
                tensors.append(attribute.t)
    for tensor in tensors:
        _check_tensor(tensor, weights_file, weights_bytes)


def _check_padding(tensor: Message | None) -> None:
    """See to it that a padding is written in the graph, and small."""
    if tensor is None or tensor.data_type != INT64 or tensor.data_location == EXTERNAL:
        raise GraphRefused("Pad has a padding that is not written in the graph")
    whole = tensor.raw_data[
        : len(tensor.raw_data) // 8 * 8
    ]  # of another size, it is refused as every tensor is
    values = [*tensor.int64_data, *(each for (each,) in iter_unpack("<q", whole))]
    largest = max(map(abs, values), default=0)
    if largest > MOST_IN_LISTS:
        raise GraphRefused(f"Pad has a padding of {largest}, at most {MOST_IN_LISTS} is allowed")


def _check_tensor(tensor: Message, weights_file: str, weights_bytes: int) -> None:
    """See to it that a tensor is as large as what there is for it, in the graph or in the weights."""
    name = f"the tensor {tensor.name!r}"
    item_bytes = ITEM_BYTES.get(tensor.data_type)
    if item_bytes is None:
        raise GraphRefused(f"{name} has elements of type {tensor.data_type}, which are not read")
    if any(size < 0 for size in tensor.dims):
        raise GraphRefused(f"{name} has a negative size")
    items = prod(tensor.dims)
    if tensor.data_location != EXTERNAL:
        typed = len(tensor.float_data) + len(tensor.int32_data) + len(tensor.int64_data)
        if items * item_bytes != len(tensor.raw_data) and items != typed:
            raise GraphRefused(f"{name} has another size than its values")
        return
    entries = {pair.key: pair.value for pair in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not entries.keys() <= EXTERNAL_KEYS:
        raise GraphRefused(f"{name} is described twice, or in a way that is not known")
    if entries.get("location") != weights_file:
        raise GraphRefused(
            f"{name} is in {entries.get('location')!r}; only {weights_file} may be read"
        )
    offset, length = (entries.get(key, "0") for key in ("offset", "length"))
    is_inside = (
        all(each.isascii() and each.isdigit() and len(each) < 20 for each in (offset, length))
        and int(length) == items * item_bytes
        and int(offset) + int(length) <= weights_bytes
    )
    if not is_inside:
        raise GraphRefused(
            f"{name} of {items * item_bytes} bytes, {length} at {offset}, is not in the {weights_bytes} of {weights_file}"
        )


@cache
def _model_class() -> type[Message]:
    """Return the class of a whole file."""
    kinds = FieldDescriptorProto
    file = FileDescriptorProto(name="graph.proto", package="bundle", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for text in fields.split(", "):
            number, field_name, kind = text.split()
            field = message.field.add(
                name=field_name,
                number=int(number),
                label=kinds.LABEL_REPEATED if kind[0] == "*" else kinds.LABEL_OPTIONAL,
            )
            kind = kind.lstrip("*")
            if kind in SCHEMA:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".bundle.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    model: type[Message] = GetMessageClass(pool.FindMessageTypeByName("bundle.Model"))
    return model
