"""What a run may begin with: the weights of another run, or those in the graphs of a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle, BundleError, is_bundle, read_bundle
from model.fractal import FractalNet
from training import TrainingError
from training.data.data_set import DataSet, load_data
from training.graphs.graph import weights_of
from training.runs.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    check_data,
    described,
    load_trained,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Weights to begin with, and where they come from.

    Attributes:
        weights: a network's state; a bundle keeps not all statistics of batch norm.
        description: recipe, epochs and seed of the run, after those of the ones before it.
        dataset: name of the data that it was trained on.
        dataset_sha256: hash of its images and labels.
        seed: which chose its validation images.
    """

    weights: Mapping[str, Any]
    description: str
    dataset: str
    dataset_sha256: str
    seed: int


def begin_from(folder: Path, checkpoint: Checkpoint, data: DataSet) -> str:
    """Give a run not begun the weights of another or of a bundle; see to it that one that is resumed had them.

    Returns:
        A warning where those weights may have been trained on images that this run validates with, else nothing.

    Raises:
        TrainingError: it had others, they were trained on images that this run validates with, or cannot be read.
    """
    is_begun = bool(checkpoint.epoch or checkpoint.origin)
    if is_begun and not _is_origin(folder):
        return ""
    source = read_origin(folder, checkpoint.recipe.architecture.name)
    if is_begun and source.description != checkpoint.origin:
        raise TrainingError(
            f"{folder}: the checkpoint to resume began with {checkpoint.origin or 'drawn weights'}, not with "
            f"{source.description}; resume without --begin-with, or choose another --out"
        )
    if is_begun:
        return ""
    is_same_data = source.dataset_sha256 == data.sha256
    if is_same_data and data.is_split_by_seed and source.seed != checkpoint.seed:
        raise TrainingError(
            f"{folder}: was trained with seed {source.seed}, which chose other validation images than {checkpoint.seed}; "
            f"begin with --seed {source.seed}, so that none was trained on"
        )
    checkpoint.model, checkpoint.origin = dict(source.weights), source.description
    if is_same_data:
        return ""
    return (
        f"that was trained on other data ({source.dataset}), perhaps on images that validate here: "
        "validation accuracy may flatter"
    )


def _is_origin(folder: Path) -> bool:
    return is_bundle(folder) or (folder / CHECKPOINT_FILE).exists()


def read_origin(folder: Path, architecture: str) -> Origin:
    """Read the weights of a run or of a bundle; where a bundle has several networks, of the one of this architecture.

    Raises:
        TrainingError: there are none, or they are damaged.
    """
    if not _is_origin(folder):
        raise TrainingError(f"{folder}: neither a run nor a bundle is there to begin with")
    if is_bundle(folder):
        try:
            bundle = read_bundle(folder)
            return _of_bundle(bundle.part(architecture) if bundle.manifest.networks else bundle)
        except BundleError as error:
            raise TrainingError(str(error)) from error
    checkpoint = load_trained(folder)
    return Origin(
        weights=checkpoint.scored_weights,
        description=checkpoint.description,
        dataset=checkpoint.dataset,
        dataset_sha256=checkpoint.dataset_sha256,
        seed=checkpoint.seed,
    )


def completed(weights: Mapping[str, Any], network: FractalNet) -> dict[str, Any]:
    """Return the weights to begin with, and from the network what they need not bring.

    That is the statistics of batch norm, which follow the images within some steps, and the classifier where it was
    for another number of classes. A layer that brings no batch norm for its column alone begins with the one that it has
    beside others. A plain network takes its column of a fractal one and leaves the others.
    """
    own = network.state_dict()
    parameters = {name for name, _ in network.named_parameters()}
    brought = dict(weights)
    for name in parameters - weights.keys():
        beside_others = name.replace(".norms.alone.", ".norms.joint.")
        if beside_others in weights:
            brought[name] = weights[beside_others]
    if network.architecture.is_plain:
        brought = {name: values for name, values in brought.items() if name in own}
    if is_for_other_classes(weights, len(own["classifier.bias"])):
        parameters -= {"classifier.weight", "classifier.bias"}
        del brought["classifier.weight"], brought["classifier.bias"]
    return {name: values for name, values in own.items() if name not in parameters} | brought


def is_for_other_classes(weights: Mapping[str, Any], classes: int) -> bool:
    """Say whether weights have a classifier, and for another number of classes."""
    return "classifier.bias" in weights and len(weights["classifier.bias"]) != classes


def _of_bundle(bundle: Bundle) -> Origin:
    """Gather the layers of the full network, and what the others have beside its filters; not of those with their own."""
    full = bundle.full
    weights = weights_of(bundle.graph_path(full))
    for other in bundle.seen_once:
        own = weights_of(bundle.graph_path(other))
        shared = {name for name in own.keys() & weights.keys() if own[name].dim() > 1}
        if all(torch.equal(own[name], weights[name]) for name in shared):
            weights = own | weights
    _, provenance = bundle.trained
    return Origin(
        weights=weights,
        description=described(
            provenance.recipe, provenance.epochs, provenance.seed, provenance.began_with
        ),
        dataset=provenance.dataset,
        dataset_sha256=provenance.dataset_sha256,
        seed=provenance.seed,
    )


def data_of_bundle(bundle: Bundle, source: str | None) -> DataSet:
    """Load what a bundle was trained on, or what has the classes of an imported one.

    Raises:
        TrainingError: ``source`` is not named, or holds other data.
    """
    manifest = bundle.manifest
    origin = manifest.origin
    if source is None:
        was = origin.dataset if origin else manifest.imported.images if manifest.imported else ""
        raise TrainingError(
            f"{bundle.folder}: a bundle does not say where its data is ({was}); pass it with --data"
        )
    data = load_data(
        source, seed=origin.seed if origin else 0, preprocessing=manifest.preprocessing
    )
    if origin:
        check_data(data, origin.dataset_sha256, origin.dataset)
    elif data.classes != manifest.labels:
        raise TrainingError(
            f"{source}: its classes, in order, are not the labels of {bundle.folder}; name its folders so"
        )
    return data
