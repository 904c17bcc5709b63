"""``Expand`` as additions of zeros: a bundle has no operator that makes much of little, and transformers repeat their class token.

What an ``Expand`` gives is seen by a run for two numbers of images: the first dimension is the images' where it follows
them, and the others are the same for any.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from model.cores import cores
from model.sessions import open_session
from training import TrainingError, first_line
from training.importing.files import Network

TRIED = (2, 3)  # images
OLDEST_OPSET = 10  # whose Slice takes its ends as inputs
EACH = "each.image"  # (N, 1, 1, 1): a zero for each


def without_expand(network: Network, size: int, folder: Path) -> Network:
    """Return a network of which every ``Expand`` is additions.

    Args:
        network: is left as it is.
        size: height and width of its images.
        folder: where a file may be written.

    Raises:
        TrainingError: it does not run.
    """
    expanding = [node for node in network.model.graph.node if node.op_type == "Expand"]
    opset = max(each.version for each in network.model.opset_import)
    if not expanding or opset < OLDEST_OPSET or network.batch is not None:
        return network
    names = [node.output[0] for node in expanding]
    few, more = (_outputs(network, size, names, n, folder) for n in TRIED)
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    nodes, weights = _zero_for_each(network.input)
    for node in model.graph.node:
        if node.op_type != "Expand":
            nodes.append(node)
            continue
        at = names.index(node.output[0])
        shapes = few[at].shape, more[at].shape
        follows = shapes[0][:1] == TRIED[:1] and shapes[1][:1] == TRIED[1:]
        if shapes[0][1:] != shapes[1][1:] or (shapes[0] != shapes[1] and not follows):
            raise TrainingError(
                f"{network.source.file}: repeats more than its images, which a bundle may not"
            )
        own_nodes, own_weights = _additions(node, few[at], follows=follows)
        nodes += own_nodes
        weights += own_weights
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
    return replace(network, model=model)


def _outputs(
    network: Network, size: int, names: list[str], n: int, folder: Path
) -> list[NDArray[np.generic]]:
    """Return what some nodes give for n black images."""
    dims = (
        (network.channels, size, size)
        if network.layout == "nchw"
        else (size, size, network.channels)
    )
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    path = folder / f"expanding-{n}.onnx"
    onnx.save(model, path)
    images = np.zeros((n, *dims), helper.tensor_dtype_to_np_dtype(network.type))
    try:
        session = open_session(path, threads=cores())
        outputs: list[NDArray[np.generic]] = session.run(names, {network.input: images})
    except Exception as error:  # ONNX Runtime has no common base of its errors
        raise TrainingError(
            f"{network.source.file}: ONNX Runtime cannot run it on {n} images: {first_line(error)}"
        ) from error
    return outputs


def _zero_for_each(images: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what gives a zero for each image."""
    ends = {"starts": [0, 0, 0], "ends": [1, 1, 1], "axes": [1, 2, 3]}
    names = [f"{EACH}.{name}" for name in ends]
    nodes = [
        helper.make_node("Slice", [images, *names], [f"{EACH}.first"]),
        helper.make_node("Cast", [f"{EACH}.first"], [f"{EACH}.float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{EACH}.float", f"{EACH}.zero"], [EACH]),
    ]
    weights = [
        numpy_helper.from_array(np.array(values), name)
        for name, values in zip(names, ends.values(), strict=True)
    ]
    return nodes, [*weights, numpy_helper.from_array(np.zeros(1, np.float32), f"{EACH}.zero")]


def _additions(
    node: onnx.NodeProto, output: NDArray[np.generic], *, follows: bool
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what gives the same as an ``Expand`` that gave this for two images."""
    name = node.output[0]
    dims = (1, *output.shape[1:]) if follows else output.shape
    weights = [numpy_helper.from_array(np.zeros(dims, output.dtype), f"{name}.zeros")]
    wide = f"{name}.wide" if follows else name
    nodes = [helper.make_node("Add", [node.input[0], f"{name}.zeros"], [wide])]
    if follows:
        shape = np.array([-1] + [1] * (output.ndim - 1))
        weights.append(numpy_helper.from_array(shape, f"{name}.shape"))
        kind = helper.np_dtype_to_tensor_dtype(output.dtype)
        nodes += [
            helper.make_node("Reshape", [EACH, f"{name}.shape"], [f"{name}.each"]),
            helper.make_node("Cast", [f"{name}.each"], [f"{name}.cast"], to=kind),
            helper.make_node("Add", [wide, f"{name}.cast"], [name]),
        ]
    return nodes, weights
