"""A small graph as a bundle may have one, to be changed."""

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

WEIGHTS_BYTES = 700


def small_graph() -> onnx.ModelProto:
    """A convolution with filters in ``weights.bin``, and a bias in the graph."""
    filters = helper.make_tensor("filters", TensorProto.FLOAT, [2, 3, 3, 3], bytes(216), raw=True)
    set_external_data(filters, "weights.bin", 64, 216)
    filters.ClearField("raw_data")
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [2], [0.5, 1.0])
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "filters", "bias"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["y"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [filters, bias],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
