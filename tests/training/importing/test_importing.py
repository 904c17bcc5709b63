"""Networks that were made elsewhere are read in any form, and answer as they did."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model.bundle import read_bundle
from model.sessions import open_session
from tests.networks import MEAN, STD, digits, network, normalised
from tests.server import ROOT
from tests.training.importing.conftest import Run, saved
from training.graphs.edits import fold_constants
from training.importing.files import read_network
from training.importing.images import class_numbers
from training.importing.probing import write_wrapped
from training.importing.wrapping import Normalisation

DIGITS = Normalisation((MEAN,), (STD,))


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute in half precision."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def with_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write weights as older exporters do: as nodes, or as inputs that have a value."""
    first, *others = model.graph.initializer
    node = helper.make_node("Constant", [], [first.name], value=first)
    model.graph.node.insert(0, node)
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(others)
    for tensor in others:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return model


def with_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name tensors as the wrapped graph does, and note things that no bundle has."""
    model.domain = "my.lab"
    for node in model.graph.node:
        node.metadata_props.add(key="where", value="in my code")
    return model


def with_a_token(model: onnx.ModelProto) -> onnx.ModelProto:
    """Repeat a row for each image, as transformers do with their class token, and add what changes no probability."""
    model.graph.node[-1].output[0] = "answers"
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["answers"], ["rows"]),
            helper.make_node("Expand", ["token", "rows"], ["tokens"]),
            helper.make_node("Sum", ["answers", "tokens"], ["output"]),
        ]
    )
    token = numpy_helper.from_array(np.full((1, 1), 3, np.float32), "token")
    model.graph.initializer.append(token)
    return model


FORMS: dict[str, Callable[[], onnx.ModelProto]] = {
    "as PyTorch writes it": lambda: network(4),
    "of opset 11": lambda: network(4, opset=11),
    "of opset 21": lambda: network(4, opset=21),
    "of one image": lambda: network(4, input_shape=(1, 3, 8, 8)),
    "channels last": lambda: network(
        4, input_shape=("batch", 8, 8, 3), input_name="serving_default_input:0"
    ),
    "of any size": lambda: network(4, input_shape=("batch", 3, "height", "width")),
    "probabilities": lambda: network(4, softmax=True),
    "in half precision": lambda: in_half(network(4)),
    "weights as nodes": lambda: with_constant_nodes(network(4)),
    "repeating a token": lambda: with_a_token(network(4)),
    "names of ours": lambda: with_notes(network(4, input_name="images", output_name="logits")),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_any_form_answers_as_it_did(form: str, tmp_path: Path) -> None:
    images = digits()[0][:40]
    plain = open_session(saved(network(4), tmp_path / "plain.onnx"), threads=1)
    (expected,) = plain.run(None, {"input": normalised(images)})

    read = read_network(saved(FORMS[form](), tmp_path / "network.onnx"), None)
    path, answers = write_wrapped(read, tmp_path / "wrapped", images[:4], DIGITS, 10)

    logits, probabilities = open_session(path, threads=1).run(
        ["logits", "probabilities"], {"images": images}
    )
    softmax = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    # Float16 keeps three digits, the smallest probability is 1e-7; others are 1e-6 apart.
    np.testing.assert_allclose(probabilities, softmax, atol=2e-2 if "half" in form else 1e-5)
    assert answers.are_probabilities == (form == "probabilities")
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.95


def test_bytes_are_handed_to_a_network_that_takes_them(tmp_path: Path, run: Run) -> None:
    model = network(4, input_shape=("batch", 8, 8, 3))
    cast = helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT)
    model.graph.node[0].input[0] = "float"
    model.graph.node.insert(0, cast)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8

    code, out, _ = run(saved(model, tmp_path / "net.onnx"))

    assert code == 0
    assert "uint8 (N, 8, 8, 3), bytes as they are whatever --mean and --std, gives logits" in out


def test_grey_networks_see_red_green_and_blue_as_people_do(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([0, -1]), "shape")
    mean_and_spread = helper.make_graph(
        [helper.make_node("Reshape", ["Input3", "shape"], ["Plus214_Output_0"])],
        "grey",
        [helper.make_tensor_value_info("Input3", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("Plus214_Output_0", TensorProto.FLOAT, [1, 64])],
        [shape],
    )
    path = saved(helper.make_model(mean_and_spread, ir_version=8), tmp_path / "grey.onnx")
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[0, ..., 0] = images[1, ..., 1] = 255

    wrapped, _ = write_wrapped(
        read_network(path, None), tmp_path / "wrapped", images, Normalisation(), 64
    )

    (logits,) = open_session(wrapped, threads=1).run(["logits"], {"images": images})
    np.testing.assert_allclose(logits[:, 0], [0.299, 0.587], atol=1e-5)


def test_the_front_is_kept_and_what_beats_the_others_is_said(tmp_path: Path, run: Run) -> None:
    small = saved(network(), tmp_path / "small.onnx")
    large = saved(network(6), tmp_path / "large (v1.2).onnx")
    clumsy = network(6)
    for number in range(3):  # the same answers for thousands of times the multiply-adds
        clumsy.graph.node[-1].output[0] = f"answers{number}"
        clumsy.graph.node.append(
            helper.make_node("MatMul", [f"answers{number}", f"there{number}"], [f"far{number}"])
        )
        clumsy.graph.node.append(
            helper.make_node("MatMul", [f"far{number}", f"back{number}"], ["output"])
        )
        there = np.eye(10, 100_000, dtype=np.float32)
        clumsy.graph.initializer.append(numpy_helper.from_array(there, f"there{number}"))
        clumsy.graph.initializer.append(numpy_helper.from_array(there.T.copy(), f"back{number}"))

    code, out, err = run(small, large, saved(clumsy, tmp_path / "clumsy.onnx"))

    assert (code, err) == (0, "")
    assert "small.onnx: takes 'input', float32 (N, 3, 8, 8), gives logits" in out
    assert "clumsy is left out, beaten by large-v1-2: " in out
    first, second = read_bundle(tmp_path / "bundle").manifest.subnetworks
    assert (first.name, second.name) == ("small", "large-v1-2")
    assert (first.macs, first.parameters) == (480, 490)  # 48 features, 10 classes
    assert (second.macs, second.parameters) == (64 * 27 * 6 + 960, 27 * 6 + 970)
    assert second.source
    assert second.source.file == "large (v1.2).onnx"
    assert (second.columns, second.depth, second.accuracy.test) == ((), None, None)
    assert second.accuracy.validation.n == 80
    assert second.calibration.n == 40  # the temperature was fitted to the others


def test_int8_and_images_to_test_with_are_measured_for_themselves(
    tmp_path: Path, photos: Path, run: Run
) -> None:
    for part in ("train", "val", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / part).symlink_to(photos)

    code, out, _ = run(
        saved(network(4, 8), tmp_path / "net.onnx"), "--precision", "int8", images=tmp_path / "data"
    )

    (subnetwork,) = read_bundle(tmp_path / "bundle").manifest.subnetworks
    assert code == 0
    assert "in int8" in out
    assert subnetwork.int8
    assert subnetwork.int8.agreement.value > 0.9
    assert subnetwork.accuracy.test == subnetwork.accuracy.validation  # the same images here
    assert subnetwork.calibration.n == 80


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_imported_network_looks_at_mirror_images_too(
    precision: str, tmp_path: Path, run: Run
) -> None:
    file = saved(network(4, 8), tmp_path / "net.onnx")

    code, _, err = run(file, "--mirror", "net", "--keep", "all", "--precision", precision)

    bundle = read_bundle(tmp_path / "bundle")
    once, twice = bundle.manifest.subnetworks
    assert (code, err) == (0, "")
    assert (once.name, once.views, twice.name, twice.views) == ("net", 1, "net-mirrored", 2)
    images = digits()[0][:40]
    told = [
        open_session(bundle.graph_path(each), threads=1).run(["logits"], {"images": seen})[0]
        for each, seen in ((once, images), (once, images[:, :, ::-1].copy()), (twice, images))
    ]
    np.testing.assert_allclose(told[2], (told[0] + told[1]) / 2, atol=1e-5)
    assert bool(once.int8) == bool(twice.int8) == (precision == "int8")
    if twice.int8:
        assert twice.int8.agreement.value > 0.9


def test_a_mirrored_network_is_not_mirrored_again(tmp_path: Path, run: Run) -> None:
    run(saved(network(4, 8), tmp_path / "net.onnx"), "--mirror", "net", "--keep", "all")
    before = (tmp_path / "bundle").rename(tmp_path / "before")

    code, _, err = run("--with", before, "--mirror", "net-mirrored")

    assert code == 1
    assert err == "error: --mirror net-mirrored: looks at an image twice already\n"


def test_a_division_that_is_no_mean_stays_in_int8(tmp_path: Path, run: Run) -> None:
    model = network(4, 8)
    model.graph.node[2].input[0] = "divided"  # the second convolution
    model.graph.node.insert(2, helper.make_node("Div", ["relu0", "spread"], ["divided"]))
    model.graph.node.insert(2, helper.make_node("Sum", ["relu0", "one"], ["spread"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))

    code, *_ = run(saved(model, tmp_path / "net.onnx"), "--precision", "int8")

    (subnetwork,) = read_bundle(tmp_path / "bundle").manifest.subnetworks
    assert code == 0
    assert subnetwork.int8
    assert subnetwork.int8.agreement.value > 0.9


def test_a_network_joins_the_subnetworks_of_a_bundle(
    tmp_path: Path, photos: Path, bundle_folder: Path, run: Run
) -> None:
    giant = saved(network(64, 512, input_shape=(1, 3, 8, 8)), tmp_path / "giant.onnx")

    code, out, err = run(giant, "--with", bundle_folder)

    before, after = read_bundle(bundle_folder).manifest, read_bundle(tmp_path / "bundle").manifest
    assert (code, err) == (0, "")
    assert "its batch of 1 is open now" in out
    assert after.architecture == before.architecture
    assert after.provenance == before.provenance
    assert after.imported
    assert after.imported.images == photos.name
    giant_entry = next(each for each in after.subnetworks if each.source)
    columns = [each for each in after.subnetworks if each.columns]
    assert giant_entry.name == "giant"
    assert columns
    assert all(each.accuracy.validation.n == 80 for each in after.subnetworks)


WITHOUT_TORCH = """
import sys


class Hidden:
    @staticmethod
    def find_spec(name, *_):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Hidden)
from service.cli import main

main()
"""


def test_without_torch_a_network_is_imported_and_labels_of_another_order_doubted(
    tmp_path: Path, photos: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("9876543210"))
    words: list[str | Path] = [saved(network(4), tmp_path / "net.onnx"), "--images", photos]
    words += ["--labels", labels, "--out", tmp_path / "bundle"]

    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "import", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "warning: net is right on" in said
    assert "hardly better than guessing; are --mean, --std and the order of the labels" in said
    assert read_bundle(tmp_path / "bundle").manifest.labels == tuple("9876543210")


def test_a_program_of_pytorch_is_imported(tmp_path: Path, run: Run) -> None:
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10)).eval()
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(layers, (torch.zeros(1, 3, 8, 8),)), path)

    code, out, err = run(path)

    assert (code, err) == (0, "")
    assert "program.pt2: takes 'input', float32 (1, 3, 8, 8), gives logits" in out
    (subnetwork,) = read_bundle(tmp_path / "bundle").manifest.subnetworks
    assert (subnetwork.macs, subnetwork.parameters) == (1920, 1930)


class Patches(torch.nn.Module):
    """A small transformer, which repeats its class token for as many images as come, and shapes what it has by them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 8, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.attend = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.classify = torch.nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.embed(images).view(images.shape[0], 8, -1).transpose(1, 2)
        token = self.token.expand(images.shape[0], -1, -1)
        answers: torch.Tensor = self.classify(self.attend(torch.cat([token, patches], 1))[:, 0])
        return answers


def test_an_open_program_that_takes_its_images_by_keyword_answers_as_in_pytorch(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    module, path = Patches().eval(), tmp_path / "program.pt2"
    example, open_batch = (
        {"images": torch.zeros(2, 3, 8, 8)},
        {"images": {0: torch.export.Dim("n")}},
    )
    program = torch.export.export(module, (), example, dynamic_shapes=open_batch)
    torch.export.save(program, path)
    images = digits()[0][:7]

    read = read_network(path, None)
    wrapped, _ = write_wrapped(read, tmp_path / "wrapped", images, DIGITS, 10)

    (logits,) = open_session(wrapped, threads=1).run(["logits"], {"images": images})
    with torch.no_grad():
        expected = module(torch.from_numpy(normalised(images))).numpy()
    assert read.batch is None
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("folders", "labels", "numbers"),
    [
        (["cat", "dog"], ["dog", "bird", "cat"], [2, 0]),
        (["0", "10", "2"], [f"class {n}" for n in range(11)], [0, 10, 2]),
        (["n01", "n02"], ["cat", "dog"], [0, 1]),
    ],
)
def test_folders_find_their_classes(
    folders: list[str], labels: list[str], numbers: list[int]
) -> None:
    assert class_numbers(folders, labels, Path("photos"))[0] == numbers


def test_shapes_that_depend_on_no_image_are_computed_once() -> None:
    model = network(4)
    shape = next(each for each in model.graph.initializer if each.name == "shape")
    model.graph.node[-2].input[1] = "joined"
    halves = [helper.make_node("Split", ["shape"], ["a", "b"], axis=0)]
    model.graph.node.insert(0, helper.make_node("Concat", ["a", "b"], ["joined"], axis=0))
    model.graph.node.insert(0, halves[0])

    fold_constants(model)

    (joined,) = (each for each in model.graph.initializer if each.name == "joined")
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Split", "Concat"})
    np.testing.assert_array_equal(numpy_helper.to_array(joined), numpy_helper.to_array(shape))
