"""Checkpoints: written whole or not at all, read without running what they hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from pydantic import TypeAdapter

from model.fractal import FractalNet
from training import TrainingError, epochs_in_words
from training.config import Recipe
from training.data.data_set import DataSet
from training.runs.files import written_whole

CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """A training run before or after an epoch, with all that is needed to go on or to export.

    Attributes:
        recipe: as it was run; ``architecture_for`` fits its network to the data.
        seed: of initialisation, split, order, augmentation and paths.
        dataset: name of the data.
        dataset_sha256: hash of its images and labels.
        epoch: epochs done.
        model: the network's state; before the first epoch the weights to begin with, which may lack some of it.
        optimizer: the optimiser's state.
        history: one record an epoch, see ``trainer``.
        averaged: state of the average of the weights, where the recipe keeps one.
        origin: recipe, epochs and seed of the run whose weights this one began with; empty for none.
        taught_by: name and digest of the bundle whose answers it learnt last; empty for none.
        source: what the data was loaded from, a name or an absolute path; empty where it was not noted yet.
        skips_unreadable: whether images that cannot be read were left out.
    """

    recipe: Recipe
    seed: int
    dataset: str
    dataset_sha256: str
    epoch: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    averaged: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    taught_by: str = ""
    source: str = ""
    skips_unreadable: bool = False

    @property
    def description(self) -> str:
        """Recipe, epochs and seed in a few words, after those of the run that it began with."""
        return described(self.recipe.name, self.epoch, self.seed, self.origin)

    @property
    def scored_weights(self) -> dict[str, Any]:
        """The network's state to score and export: the averaged one, where there is one."""
        prefix = "module."
        averaged = {k: v for k, v in self.averaged.items() if k.startswith(prefix)}
        return {k.removeprefix(prefix): v for k, v in averaged.items()} or self.model


def described(recipe: str, epochs: int, seed: int, origin: str) -> str:
    """Describe a run in a few words, after those of the run that it began with."""
    own = f"{recipe}, {epochs_in_words(epochs)}, seed {seed}"
    return f"{origin}; {own}" if origin else own


def check_holds_no_run(folder: Path) -> None:
    """See to it that a run may begin in a folder.

    Raises:
        TrainingError: it holds the checkpoint of one.
    """
    if (folder / CHECKPOINT_FILE).exists():
        raise TrainingError(
            f"{folder}: holds a checkpoint already; continue it with --resume or choose another --out"
        )


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the checkpoint beside the old one and put it in its place."""
    fields = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    fields["recipe"] = asdict(checkpoint.recipe)
    target = folder / CHECKPOINT_FILE
    try:
        with written_whole(target) as file:
            torch.save(fields, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise TrainingError(
            f"{target}: cannot be written ({error}); free some space and resume"
        ) from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint of a run.

    Raises:
        TrainingError: there is none, or it is damaged.
        OSError: it cannot be read.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise TrainingError(f"{path}: no such checkpoint; train first with --out {folder}")
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()  # PyTorch does not look at the checksums
        if damaged:
            raise BadZipFile(damaged)
        fields = torch.load(path, map_location="cpu", weights_only=True)
        recipe = TypeAdapter(Recipe).validate_python(fields.pop("recipe"))
        return Checkpoint(recipe=recipe, **fields)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail anywhere in unpickling
        raise TrainingError(
            f"{path}: not a readable checkpoint: damaged, or not written by this program"
        ) from error


def load_trained(folder: Path) -> Checkpoint:
    """Read the checkpoint of a run that has ended an epoch.

    Raises:
        TrainingError: it has not, or there is no checkpoint, or it is damaged.
        OSError: it cannot be read.
    """
    checkpoint = load_checkpoint(folder)
    if not checkpoint.epoch:
        raise TrainingError(f"{folder}: stopped in its first epoch; go on with --resume")
    return checkpoint


def check_data(data: DataSet, sha256: str, name: str) -> None:
    """See to it that the data is what a network was trained on.

    Raises:
        TrainingError: it is not.
    """
    if data.sha256 != sha256:
        raise TrainingError(
            f"{data.name}: its sha256 is {data.sha256[:12]}…, the network was trained on {sha256[:12]}… ({name}); "
            "pass that with --data"
        )


def restore_network(checkpoint: Checkpoint, data: DataSet) -> FractalNet:
    """Return the trained network.

    Raises:
        TrainingError: ``data`` is not what it was trained on.
    """
    check_data(data, checkpoint.dataset_sha256, checkpoint.dataset)
    network = FractalNet(checkpoint.recipe.architecture_for(data))
    load_weights(network, checkpoint.scored_weights)
    return network


def load_weights(network: FractalNet, weights: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights into a network.

    Raises:
        TrainingError: they are another network's.
    """
    architecture = network.architecture
    ours, theirs = (
        {name: tuple(values.shape) for name, values in each.items()}
        for each in (network.state_dict(), weights)
    )
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise TrainingError(
                f"the checkpoint's weights do not fit {architecture.name} for {architecture.classes} classes: {name} is "
                f"{theirs.get(name, 'missing')}, not {ours.get(name, 'there')}; choose a run of the same network"
            )
    network.load_state_dict(weights)
