"""A graph in 8-bit integers: ONNX Runtime's static quantisation, and what makes the result fast on a CPU.

``python -m training.graphs.quantise FOLDER`` quantises in a process of its own: the sessions that ONNX Runtime opens for it
have threads of their own, which it refuses where sessions share one pool.
"""

import subprocess
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from training import TrainingError
from training.graphs.edits import drop_unused

CALIBRATION_IMAGES = 256  # whose largest and smallest values span the integers of each layer
CALIBRATION_BATCH = 32
IN_INTEGERS = ["Conv", "Relu", "MaxPool", "Add", "Div"]  # the classifier's logits stay exact
GIVEN, IMAGES, QUANTISED = "given.onnx", "images.npy", "quantised.onnx"


def quantise(model: onnx.ModelProto, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """Return a graph whose layers compute in 8-bit integers, u8 between them and s8 filters, a scale a filter.

    The layer that sees the image stays in float32: with three channels it is slower in integers.

    Args:
        model: a float32 graph with its weights.
        images: uint8 (N, H, W, 3), training images; each layer's range is what they show.

    Raises:
        TrainingError: ONNX Runtime cannot quantise it.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / GIVEN)
        np.save(folder / IMAGES, images)
        # -P: the current folder may hold a ``training`` of its own.
        command = [sys.executable, "-P", "-m", "training.graphs.quantise", name]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            told = run.stderr.splitlines() or [f"the process ended with {run.returncode}"]
            raise TrainingError(f"int8: {told[-1]}")
        return onnx.load(folder / QUANTISED)


def main() -> None:
    """Quantise the graph in the folder that the command line names."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = Path(sys.argv[1])
    prepared, quantised = folder / "prepared.onnx", folder / QUANTISED
    quant_pre_process(folder / GIVEN, prepared, skip_symbolic_shape=True)  # merges batch norm
    graph = onnx.load(prepared).graph
    CalibrationDataReader.register(_Batches)
    quantize_static(
        prepared,
        quantised,
        _Batches(np.load(folder / IMAGES)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=IN_INTEGERS,
        nodes_to_exclude=_kept_in_float(graph),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    model = onnx.load(quantised)
    _merge_means(model.graph, [node.name for node in graph.node if node.op_type == "Div"])
    onnx.save(model, quantised)


class _Batches:
    """Calibration images as ONNX Runtime reads them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        n = max(1, len(images) // CALIBRATION_BATCH)
        self._batches = iter(np.array_split(images, n))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the inputs of one run, or None behind the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes between the image and its first join, and of what divides the logits."""
    before, behind = {"images"}, set[str]()  # tensors on either side of the image's own layers
    names = []
    for node in graph.node:
        inputs = set(node.input)
        is_layer = node.op_type == "Conv" and inputs & before
        if is_layer or (node.op_type in ("Relu", "MaxPool") and inputs & behind):
            names.append(node.name)
            behind.update(node.output)
        elif inputs & before:
            before.update(node.output)
        elif "logits" in inputs:
            names.append(node.name)
    return names


def _merge_means(graph: onnx.GraphProto, means: Sequence[str]) -> None:
    """Read the sum of a join as its mean: the same integers, at the mean's scale.

    Where both ranges begin at 0, as behind ReLU, the integers of a sum and of its mean are equal; dividing takes a way
    through float32, which ONNX Runtime has no integers for.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name not in means or not _is_mean(node, graph):
            continue
        integers = made_by[node.input[0]].input[0]
        (rounding,) = (each for each in graph.node if node.output[0] in each.input)
        for reader in graph.node:
            if rounding.output[0] in reader.input:
                reader.input[0] = integers
    drop_unused(graph)


def _is_mean(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Say whether a division is by a number that is known, between integers whose ranges both begin at 0."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: each for each in graph.node for output in each.output}
    readers = [each for each in graph.node if node.output[0] in each.input]
    dividend, divisor = (made_by.get(name) for name in node.input)
    divided_by = divisor.input[0] if divisor else node.input[1]
    if dividend is None or len(readers) != 1 or divided_by not in constants:
        return False
    kinds = (dividend.op_type, readers[0].op_type)
    return (
        kinds == ("DequantizeLinear", "QuantizeLinear")
        and not any(
            onnx.numpy_helper.to_array(constants[each.input[2]]).any()
            for each in (dividend, readers[0])
        )
        and prod(constants[divided_by].dims) == 1
    )


if __name__ == "__main__":
    main()
