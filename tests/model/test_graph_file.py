"""A graph is looked through before it is loaded, and what it may not have is named."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from model.bundle import PRETRAINED_DIR, read_bundle
from model.graph_file import GraphRefused, check_graph
from tests.model.graphs import WEIGHTS_BYTES, small_graph


def check(model: onnx.ModelProto, *, weights_bytes: int = WEIGHTS_BYTES) -> None:
    check_graph(model.SerializeToString(), weights_file="weights.bin", weights_bytes=weights_bytes)


def test_a_graph_of_a_bundle_passes() -> None:
    check(small_graph())


def test_a_small_padding_passes() -> None:
    model = small_graph()
    pad(model, 1)

    check(model)


def test_a_graph_as_bundles_of_format_1_have_it_passes() -> None:
    """They say the shape of what the classifier takes in a constant's list, and note where each part comes from."""
    model = small_graph()
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[-1, 128])
    model.graph.node.extend([shape, helper.make_node("Reshape", ["y", "shape"], ["z"])])
    for part in (model.graph, model.graph.node[0]):
        part.metadata_props.add(key="namespace", value="network.blocks.0")

    check(model)


def test_every_graph_of_the_bundled_networks_passes() -> None:
    for folder in (each for each in PRETRAINED_DIR.iterdir() if each.is_dir()):
        assert read_bundle(folder)


def take_an_operator_of_a_library(model: onnx.ModelProto) -> None:
    model.graph.node[2].domain = "com.example"


def branch(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "then", [], [])
    model.graph.node[2].attribute.append(helper.make_attribute("then_branch", body))


def loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["x"], ["z"]))


def bring_a_function(model: onnx.ModelProto) -> None:
    relu = helper.make_node("Relu", ["a"], ["b"])
    imports = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("own", "Relu", ["a"], ["b"], [relu], imports))


def make_much_of_little(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Expand", ["x", "shape"], ["z"]))


def pad_by_gigabytes(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute[0].ints[0] = 30_000


def pad(model: onnx.ModelProto, by: int) -> None:
    model.graph.initializer.append(helper.make_tensor("by", TensorProto.INT64, [8], [by] * 8))
    model.graph.node.append(helper.make_node("Pad", ["x", "by"], ["z"]))


def pad_by_a_tensor_of_gigabytes(model: onnx.ModelProto) -> None:
    pad(model, 30_000)


def pad_by_what_is_computed(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Pad", ["x", "y"], ["z"]))


def pad_by_another_of_the_same_name(model: onnx.ModelProto) -> None:
    pad(model, 1)
    pad(model, 30_000)


def pad_by_a_constant_of_gigabytes(model: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["by"], value_ints=[30_000] * 8)
    model.graph.node.extend([constant, helper.make_node("Pad", ["x", "by"], ["z"])])


def have_no_operators(model: onnx.ModelProto) -> None:
    model.graph.ClearField("node")


def move_filters(model: onnx.ModelProto, location: str, offset: int) -> None:
    for entry in model.graph.initializer[0].external_data:
        entry.value = {"location": location, "offset": str(offset)}.get(entry.key, entry.value)


def read_another_file(model: onnx.ModelProto) -> None:
    move_filters(model, "../../etc/passwd", 0)


def read_memory(model: onnx.ModelProto) -> None:
    move_filters(model, "*/_ORT_MEM_ADDR_/*", 0)


def read_behind_the_end(model: onnx.ModelProto) -> None:
    move_filters(model, "weights.bin", 600)


def read_before_the_beginning(model: onnx.ModelProto) -> None:
    move_filters(model, "weights.bin", -64)


def read_by_an_unknown_key(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="basepath", value="/")


def name_the_place_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def claim_a_huge_filter(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def claim_a_huge_bias(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims[0] = 2**40


def claim_a_negative_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims[0] = -2


def hold_strings(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].data_type = TensorProto.STRING


def hide_a_huge_constant(model: onnx.ModelProto) -> None:
    huge = TensorProto(dims=[2**40], data_type=TensorProto.FLOAT, raw_data=b"1234")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=huge))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (take_an_operator_of_a_library, "'com.example.Softmax'"),
        (branch, "functions or branches"),
        (loop, "the operator 'Loop'"),
        (bring_a_function, "functions or branches"),
        (make_much_of_little, "the operator 'Expand'"),
        (pad_by_gigabytes, "Conv has pads of 30000, at most 64 is allowed"),
        (pad_by_a_tensor_of_gigabytes, "Pad has a padding of 30000, at most 64 is allowed"),
        (pad_by_what_is_computed, "a padding that is not written in the graph"),
        (pad_by_a_constant_of_gigabytes, "a padding that is not written in the graph"),
        (pad_by_another_of_the_same_name, "names a tensor twice"),
        (have_no_operators, "has no operators"),
        (read_another_file, "'../../etc/passwd'; only weights.bin may be read"),
        (read_memory, "only weights.bin may be read"),
        (read_behind_the_end, "216 at 600, is not in the 700 of weights.bin"),
        (read_before_the_beginning, "216 at -64, is not in the 700"),
        (read_by_an_unknown_key, "in a way that is not known"),
        (name_the_place_twice, "described twice"),
        (claim_a_huge_filter, "is not in the 700 of weights.bin"),
        (claim_a_huge_bias, "another size than its values"),
        (claim_a_negative_size, "a negative size"),
        (hold_strings, "elements of type 8"),
        (hide_a_huge_constant, "another size than its values"),
    ],
)
def test_what_a_graph_may_not_have_is_named(
    change: Callable[[onnx.ModelProto], None], fault: str
) -> None:
    model = small_graph()
    change(model)

    with pytest.raises(GraphRefused) as raised:
        check(model)

    assert fault in str(raised.value)


def test_what_onnx_runtime_loads_of_the_small_graph_is_what_was_checked(tmp_path: Path) -> None:
    """The graph that the other tests change is one that would be served."""
    (tmp_path / "weights.bin").write_bytes(bytes(WEIGHTS_BYTES))
    (tmp_path / "small.onnx").write_bytes(small_graph().SerializeToString())

    onnx.checker.check_model(tmp_path / "small.onnx")


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08", bytes(100)])
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(GraphRefused):
        check_graph(content, weights_file="weights.bin", weights_bytes=WEIGHTS_BYTES)
