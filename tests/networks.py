"""Classifiers that were made elsewhere, as their owners have them: ONNX files of digits, and folders of images."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from model.sessions import open_session

MEAN, STD = 0.3, 0.38
IMAGES_A_CLASS = 8
Floats = NDArray[np.float32]


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits of scikit-learn, (N, 8, 8, 3), and what they are."""
    from sklearn.datasets import load_digits

    data = load_digits()
    gray = (data.images * (255 / 16)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=3), data.target.astype(np.int64)


def normalised(images: NDArray[np.uint8]) -> Floats:
    """Return images as the networks take them, (N, 3, 8, 8)."""
    values = (images.astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def write_images(root: Path) -> Path:
    """Write the first digits of every class into class folders, and return their folder."""
    images, labels = digits()
    for label in range(10):
        folder = root / str(label)
        folder.mkdir(parents=True)
        for number in np.flatnonzero(labels == label)[:IMAGES_A_CLASS]:
            Image.fromarray(images[number]).save(folder / f"{number}.png")
    return root


def network(
    *channels: int,
    input_shape: tuple[int | str, ...] = ("batch", 3, 8, 8),
    input_name: str = "input",
    output_name: str = "output",
    opset: int = 17,
    classes: int = 10,
    softmax: bool = False,
) -> onnx.ModelProto:
    """Return a trained network: convolutions that are drawn, and a classifier that is fitted to their features.

    The classifier has the least squares on all images but those that ``write_images`` writes.
    """
    rng = np.random.default_rng(0)
    nodes, weights, last, inputs = [], {}, input_name, 3
    if input_shape[-1] == 3:
        nodes.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        last = "first"
    for number, outputs in enumerate(channels):
        filters = rng.standard_normal((outputs, inputs, 3, 3)) * (2 / (9 * inputs)) ** 0.5
        weights[f"filters{number}"] = filters.astype(np.float32)
        nodes.append(
            helper.make_node(
                "Conv", [last, f"filters{number}"], [f"conv{number}"], pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"]))
        last, inputs = f"relu{number}", outputs
    nodes.append(
        helper.make_node("AveragePool", [last], ["pooled"], kernel_shape=[2, 2], strides=[2, 2])
    )
    weights["shape"] = np.array([input_shape[0] if input_shape[0] == 1 else 0, -1])
    nodes.append(helper.make_node("Reshape", ["pooled", "shape"], ["features"]))
    weights["classifier"], weights["bias"] = _fitted(
        nodes, weights, input_name, input_shape, classes
    )
    answers = "answers" if softmax else output_name
    nodes.append(helper.make_node("Gemm", ["features", "classifier", "bias"], [answers]))
    if softmax:
        nodes.append(helper.make_node("Softmax", [answers], [output_name], axis=1))
    return _model(
        nodes, weights, input_name, input_shape, output_name, [input_shape[0], classes], opset
    )


def _fitted(
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    input_name: str,
    input_shape: tuple[int | str, ...],
    classes: int,
) -> tuple[Floats, Floats]:
    """Return weights and bias of the classifier behind some layers."""
    images, labels = digits()
    learnt = np.ones(len(labels), bool)
    for label in range(10):
        learnt[np.flatnonzero(labels == label)[:IMAGES_A_CLASS]] = False
    images, labels = images[learnt][:300], labels[learnt][:300]
    open_shape = ("n", *input_shape[1:])
    layers = _model(
        nodes,
        weights | {"shape": np.array([0, -1])},
        input_name,
        open_shape,
        "features",
        ["n", None],
        17,
    )
    with TemporaryDirectory() as folder:
        path = Path(folder, "layers.onnx")
        onnx.save(layers, path)
        session = open_session(path, threads=1)
    x = normalised(images)
    if input_shape[-1] == 3:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    (features,) = session.run(None, {input_name: x})
    bordered = np.hstack([features, np.ones((len(features), 1), np.float32)])
    wanted = 10 * np.eye(classes, dtype=np.float32)[labels]
    kernel = bordered @ bordered.T + 3 * np.eye(len(bordered), dtype=np.float32)
    solution = bordered.T @ np.linalg.solve(kernel, wanted)
    return solution[:-1], solution[-1]


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    input_name: str,
    input_shape: tuple[int | str, ...],
    output_name: str,
    output_shape: list[Any],
    opset: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
