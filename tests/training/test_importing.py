"""Networks that were made elsewhere are read in any form, and told of in one line where they cannot be served."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model.bundle import PRETRAINED_DIR, read_bundle
from model.sessions import open_session
from tests.networks import MEAN, STD, digits, network, normalised, write_images
from tests.server import ROOT
from training import TrainingError
from training.graph_edits import fold_constants
from training.importing.command import main
from training.importing.files import read_network
from training.importing.images import class_numbers, read_labels
from training.importing.probing import write_wrapped
from training.importing.wrapping import Normalisation

DIGITS = Normalisation((MEAN,), (STD,))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture
def run(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Import files into ``bundle``; return the exit code, and what was said to whom."""

    def run(*words: object, images: Path = photos) -> tuple[int, str, str]:
        given = ["--images", images, "--out", tmp_path / "bundle", "--mean", MEAN, "--std", STD]
        code = main(["import", *map(str, (*words, *given))])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


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


def with_another_output(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output.append(
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 48])
    )
    return model


def with_another_input(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))
    return model


def with_operator(name: str, domain: str = "") -> onnx.ModelProto:
    model = network()
    model.graph.node.append(helper.make_node(name, ["output"], ["more"], domain=domain))
    model.graph.output[0].name = "more"
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def mixing_images(model: onnx.ModelProto) -> onnx.ModelProto:
    """Subtract the mean of a batch, as batch norm does in training."""
    mean = helper.make_node("ReduceMean", ["output"], ["mean"], axes=[0], keepdims=1)
    model.graph.node.extend([mean, helper.make_node("Sub", ["output", "mean"], ["more"])])
    model.graph.output[0].name = "more"
    return model


def taking(*shape: int | str) -> onnx.ModelProto:
    """Return a network that says to take images of this shape."""
    model = network()
    name = model.graph.input[0].name
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


REFUSED: dict[str, Callable[[], onnx.ModelProto]] = {
    "takes 2 inputs (input, scale); a classifier takes one": lambda: with_another_input(network()),
    "gives 2 outputs (output, features); a classifier gives one": lambda: with_another_output(
        network()
    ),
    "gives 11 numbers an image; there are 10 labels": lambda: network(classes=11),
    "takes (1, 192); images are (N, channels, H, W) or": lambda: taking(1, 192),
    "takes 4 or 8 channels; images have 3, or 1 in grey": lambda: taking("batch", 4, 8, 8),
    "does not say where the channels are; say it with --layout": lambda: taking("n", "c", "h", "w"),
    "takes 8×9; images are squares here": lambda: taking("batch", 3, 8, 9),
    "takes images of any size; say with --size what it was trained on": lambda: taking(
        "batch", 3, "h", "w"
    ),
    "has the operator 'my.lab.Magic', which no graph of a bundle may have": lambda: with_operator(
        "Magic", "my.lab"
    ),
    "has the operator 'NonZero', which no graph of a bundle may have": lambda: with_operator(
        "NonZero"
    ),
    "answers images otherwise together than alone; export it": lambda: mixing_images(network()),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_served_is_told_in_one_line(reason: str, tmp_path: Path, run: Run) -> None:
    path = saved(REFUSED[reason](), tmp_path / "network.onnx")

    code, _, err = run(path)

    (line,) = err.splitlines()
    assert code == 1
    assert "network.onnx: " in line
    assert reason in line
    assert not (tmp_path / "bundle").exists()


def test_all_files_that_cannot_be_read_are_told_at_once(tmp_path: Path, run: Run) -> None:
    text, empty, archive = (tmp_path / f"{name}.onnx" for name in ("text", "empty", "archive"))
    text.write_text("a network\n" * 9)
    empty.write_bytes(b"")
    archive.write_bytes(b"PK\x03\x04 of torch.save")
    whole = saved(network(4), tmp_path / "whole.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: len(whole) // 2])
    lost = tmp_path / "lost.onnx"
    onnx.save(network(4), lost, save_as_external_data=True, location="lost.data", size_threshold=9)
    (tmp_path / "lost.data").unlink()

    code, _, err = run(text, empty, archive, cut, lost, tmp_path, tmp_path / "none.onnx")

    assert code == 1
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error"] * 7
    for path, reason in zip(
        (text, empty, archive, cut, lost, tmp_path, tmp_path / "none.onnx"),
        (
            "is no ONNX file",
            "is no ONNX file",
            "is no ONNX file but one of PyTorch's or Keras'",
            "is no ONNX file",
            "its weights are in lost.data, which is missing or damaged",
            "is a folder",
            "No such file",
        ),
        strict=True,
    ):
        assert f"error: {path}: {reason}" in err


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


def test_what_is_no_program_of_pytorch_is_one_line(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "weights.pt2"
    torch.save({"weight": torch.zeros(2)}, path)

    code, _, err = run(path)

    (line,) = err.splitlines()
    assert code == 1
    assert line.startswith(f"error: {path}: torch cannot make ONNX of it: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("crane\ncrane\n", "lines 1 and 2 are both 'crane'"),
        ("one\n\nthree\n", "line 2 is empty"),
        ("one\n", "names 1 classes"),
    ],
)
def test_labels_that_name_no_classes_are_one_line(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)

    with pytest.raises(TrainingError, match=re.escape(reason)):
        read_labels(path)


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


def test_folders_of_other_classes_are_named() -> None:
    with pytest.raises(TrainingError, match=r"1 of its 2 folders are called as none .*: bird"):
        class_numbers(["bird", "cat"], ["cat", "dog"], Path("photos"))


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


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--mean", "123.675"], "--mean is 123.675; of pixels from 0 to 1 it is from 0 to 1"),
        (["--std", "58"], "--std is 58; of pixels from 0 to 1 it is over 0 and at most 1"),
        (["--size", "32"], "net.onnx: takes 8×8; a bundle decodes an image once, here to 32×32"),
        (["--with", PRETRAINED_DIR / "cifar10", "--size", "32"], "leave out --labels, --size"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    words: list[object],
    reason: str,
    tmp_path: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = saved(network(), tmp_path / "net.onnx")
    given = ["import", path, *words, "--images", photos, "--out", tmp_path / "bundle"]

    assert main(list(map(str, given))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


@pytest.mark.parametrize("text", ["grey", "0.5,0.5", "0.5,,0.5"])
def test_what_is_neither_one_number_nor_three_is_said_so(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["import", "net.onnx", "--mean", text, "--images", "photos", "--out", "bundle"])

    assert f"--mean: {text} is neither one number nor three" in capsys.readouterr().err
