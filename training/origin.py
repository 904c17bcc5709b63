"""What a run may begin with: the weights of another run, or those in the graphs of a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from model.bundle import MANIFEST_FILE, Bundle, BundleError, read_bundle
from training import TrainingError
from training.checkpoint import CHECKPOINT_FILE, described, load_checkpoint
from training.export import HALF_SUFFIX, NETWORK_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Weights to begin with, and where they come from.

    Attributes:
        weights: a network's state; a bundle keeps not all statistics of batch norm.
        description: recipe, epochs and seed of the run, after those of the ones before it.
        dataset_sha256: hash of the data that it was trained on.
        seed: which chose its validation images.
    """

    weights: Mapping[str, Any]
    description: str
    dataset_sha256: str
    seed: int


def is_origin(folder: Path) -> bool:
    """Say whether there is something to begin with."""
    return any((folder / name).exists() for name in (CHECKPOINT_FILE, MANIFEST_FILE))


def read_origin(folder: Path) -> Origin:
    """Read the weights of a run or of a bundle.

    Raises:
        TrainingError: there are none, or they are damaged.
    """
    if (folder / MANIFEST_FILE).exists():
        try:
            return _of_bundle(read_bundle(folder))
        except BundleError as error:
            raise TrainingError(str(error)) from error
    checkpoint = load_checkpoint(folder)
    return Origin(
        weights=checkpoint.best_weights,
        description=checkpoint.description,
        dataset_sha256=checkpoint.dataset_sha256,
        seed=checkpoint.seed,
    )


def completed(weights: Mapping[str, Any], network: nn.Module) -> dict[str, Any]:
    """Return the weights to begin with, and from the network what they need not bring.

    That is the statistics of batch norm, which follow the images within some steps, and the classifier where it was
    for another number of classes.
    """
    own = network.state_dict()
    parameters = {name for name, _ in network.named_parameters()}
    brought = dict(weights)
    bias = brought.get("classifier.bias")
    if bias is not None and bias.shape != own["classifier.bias"].shape:
        parameters -= {"classifier.weight", "classifier.bias"}
        del brought["classifier.weight"], brought["classifier.bias"]
    return {name: values for name, values in own.items() if name not in parameters} | brought


def _of_bundle(bundle: Bundle) -> Origin:
    """Gather the layers of all subnetworks; what several have is taken from the dearest, the full network."""
    weights: dict[str, Tensor] = {}
    for subnetwork in bundle.manifest.subnetworks:
        for tensor in onnx.load(bundle.graph_path(subnetwork)).graph.initializer:
            if tensor.name.startswith(NETWORK_PREFIX):
                name = tensor.name.removeprefix(NETWORK_PREFIX).removesuffix(HALF_SUFFIX)
                values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
                weights[name] = torch.from_numpy(values)
    provenance = bundle.manifest.provenance
    return Origin(
        weights=weights,
        description=described(
            provenance.recipe, provenance.epochs, provenance.seed, provenance.began_with
        ),
        dataset_sha256=provenance.dataset_sha256,
        seed=provenance.seed,
    )
