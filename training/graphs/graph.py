"""A subnetwork as a graph, and its weights read back from one."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from model.fractal import FractalNet
from training.augment import Normalisation
from training.graphs.edits import strip_notes
from training.graphs.weights_file import HALF_SUFFIX

NETWORK_PREFIX = "network."  # of the names that a graph's tensors have beside those of a checkpoint


class ServedNetwork(nn.Module):
    """A subnetwork as clients call it: scaling and normalisation before it, calibrated probabilities behind it.

    Both are float32, whatever the network between them computes in.
    """

    def __init__(
        self,
        network: FractalNet,
        normalisation: Normalisation,
        temperature: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network if dtype == torch.float32 else deepcopy(network).to(dtype)
        self.dtype = dtype
        self.shift = nn.Buffer(normalisation.mean.view(3, 1, 1) * 255)
        self.scale = nn.Buffer(1 / (normalisation.std.view(3, 1, 1) * 255))
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 (N, H, W, 3) to logits and probabilities (N, classes)."""
        # Bytes are moved, not floats, and a channel is scaled at a time: a third of the time, by ONNX Runtime.
        x = (images.permute(0, 3, 1, 2).float() - self.shift) * self.scale
        logits = self.network(x.to(self.dtype)).float()
        return logits, torch.softmax(logits / self.temperature, 1)


def graph_of(served: ServedNetwork, image_size: int) -> onnx.ModelProto:
    """Return a subnetwork as a graph.

    Batch norm stays apart from the convolutions, whose filters all subnetworks share; ONNX Runtime fuses them when
    it loads the graph.
    """
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    names = {"images": {0: "batch"}, "logits": {0: "batch"}, "probabilities": {0: "batch"}}
    with TemporaryDirectory() as folder, quiet_exporter():
        file = Path(folder) / "graph.onnx"
        torch.onnx.export(
            served,
            (example,),
            file,
            # The newer exporter takes twenty times as long, ten seconds a graph, for the same nodes.
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # else batch norm is fused into the filters
            do_constant_folding=False,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_axes=names,
        )
        proto = onnx.load(file)
    _name_values(proto.graph)
    strip_notes(proto.graph)
    return proto


def _name_values(graph: onnx.GraphProto) -> None:
    """Keep every weight and number as an initialiser: the exporter stores equal weights once, and numbers as nodes."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant":
            tensor = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in values:
            tensor = values[node.input[0]]
        else:
            nodes.append(node)
            continue
        named = graph.initializer.add()
        named.CopyFrom(tensor)
        named.name = node.output[0]
        values[named.name] = named
    graph.ClearField("node")
    graph.node.extend(nodes)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep to itself what torch's exporters say: of torch, or of what a comparison with torch shows anyway."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("onnx", "export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def weights_of(path: Path) -> dict[str, Tensor]:
    """Return the network's weights that a graph in float has, by their names in a checkpoint; all in float32."""
    weights = {}
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name.startswith(NETWORK_PREFIX):
            name = tensor.name.removeprefix(NETWORK_PREFIX).removesuffix(HALF_SUFFIX)
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            weights[name] = torch.from_numpy(values)
    return weights
