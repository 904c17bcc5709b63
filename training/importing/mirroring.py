"""Networks that look at an image twice, as it is and mirrored: more accurate for twice the work."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from training import TrainingError
from training.importing.comparing import Candidate

SUFFIX = "-mirrored"  # of their names
VIEWS = 2
WIDTH_AXIS = 2  # of images (N, H, W, 3)


def with_mirrored(candidate: Candidate, folder: Path) -> Candidate:
    """Return a network that answers with the mean of what the candidate says of an image and of its mirror image.

    Its graphs are written into ``folder``. The mean is less sure of itself than either, so that its temperature is not known.

    Raises:
        TrainingError: the candidate does so already.
    """
    name = candidate.name + SUFFIX
    if candidate.views > 1:
        raise TrainingError(f"--mirror {candidate.name}: looks at an image twice already")
    known = candidate.known
    graph, int8 = folder / f"{name}.onnx", folder / f"{name}.int8.onnx"
    onnx.save(mirrored(onnx.load(candidate.graph)), graph)
    if candidate.int8:
        onnx.save(mirrored(onnx.load(candidate.int8)), int8)
    macs = VIEWS * candidate.macs
    return replace(
        candidate,
        name=name,
        graph=graph,
        int8=int8 if candidate.int8 else None,
        macs=macs,
        known=known.model_copy(update={"name": name, "macs": macs, "views": VIEWS})
        if known
        else None,
        temperature=None,
        views=VIEWS,
    )


def mirrored(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose logits are the mean of a given one's for each image and for its mirror image.

    Both are one batch of twice as many images. What is added means the same in every opset from 7 on.

    Args:
        model: takes ``images`` uint8 (N, H, W, 3) and gives ``logits`` (N, classes), which its probabilities are made of.
    """
    own = model.graph
    graph = onnx.GraphProto(name=own.name)
    graph.input.extend(own.input)
    graph.output.extend(own.output)
    graph.initializer.extend(own.initializer)
    width, classes = (
        each.type.tensor_type.shape.dim[axis].dim_value
        for each, axis in ((own.input[0], WIDTH_AXIS), (own.output[0], 1))
    )

    def add(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        graph.node.append(
            helper.make_node(
                operator, inputs, [output], f"mirror.{operator}.{output}", **attributes
            )
        )

    def constant(name: str, values: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    columns = constant("mirror.columns", np.arange(width)[::-1].copy())
    add("Gather", ["images", columns], "mirror.images", axis=WIDTH_AXIS)
    add("Concat", ["images", "mirror.images"], "mirror.both", axis=0)
    for each in own.node:
        node = onnx.NodeProto()
        node.CopyFrom(each)
        node.input[:] = ["mirror.both" if name == "images" else name for name in each.input]
        node.output[:] = ["mirror.logits" if name == "logits" else name for name in each.output]
        graph.node.append(node)
        if "logits" in each.output:
            shape = constant("mirror.shape", np.array([VIEWS, -1, classes]))
            add("Reshape", ["mirror.logits", shape], "mirror.apart")
            for view in range(VIEWS):
                number = constant(f"mirror.number.{view}", np.array(view))
                add("Gather", ["mirror.apart", number], f"mirror.view.{view}", axis=0)
            add("Sum", [f"mirror.view.{view}" for view in range(VIEWS)], "mirror.sum")
            share = constant("mirror.share", np.array(1 / VIEWS, np.float32))
            add("Mul", ["mirror.sum", share], "logits")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.CopyFrom(graph)
    return made
