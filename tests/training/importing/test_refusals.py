"""What cannot be served, or does not fit together, is told of in one line."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model.bundle import PRETRAINED_DIR
from tests.networks import network
from tests.training.importing.conftest import Run, saved
from training import TrainingError
from training.importing.command import main
from training.importing.images import class_numbers, read_labels


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


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute in double precision, in which ONNX Runtime has no convolution."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
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
    "NOT_IMPLEMENTED : Could not find an implementation for Conv": lambda: in_double(
        network(4, input_shape=(1, 3, 8, 8))
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


def test_what_is_no_program_of_pytorch_is_one_line(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "weights.pt2"
    torch.save({"weight": torch.zeros(2)}, path)

    code, _, err = run(path)

    (line,) = err.splitlines()
    assert code == 1
    assert line.startswith(f"error: {path}: torch cannot make ONNX of it: ")


def test_a_program_of_pytorch_in_training_mode_is_one_line(tmp_path: Path, run: Run) -> None:
    layers = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(192, 10), torch.nn.BatchNorm1d(10)
    )
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(layers, (torch.zeros(2, 3, 8, 8),)), path)

    code, _, err = run(path)

    (line,) = err.splitlines()
    assert code == 1
    assert "answers images otherwise together than alone; export it" in line
    assert "in evaluation mode" in line


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


def test_folders_of_other_classes_are_named() -> None:
    with pytest.raises(TrainingError, match=r"1 of its 2 folders are called as none .*: bird"):
        class_numbers(["bird", "cat"], ["cat", "dog"], Path("photos"))


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
