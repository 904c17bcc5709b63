"""Columns with filters of their own: each is trained on alone from what it shared, taught by a better one.

In one network the filters of a column serve every path that it is part of. A server that holds every subnetwork
anyway has room for a copy that serves the column alone; it costs the caller nothing, and the bundle its size.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import torch

from model.bundle import Bundle
from model.manifest import Manifest
from model.presets import Architecture
from training import TrainingError
from training.config import SPECIALISED, SPECIALISED_SHIFTED, Recipe
from training.data.data_set import DataSet
from training.distributed import Group
from training.export.export import export_specialists
from training.runs.checkpoint import described
from training.teacher import ask
from training.trainer import train

ANSWERS_FILE = "answers.npz"


def specialise(
    bundle: Bundle,
    data: DataSet,
    folder: Path,
    *,
    columns: Collection[int],
    epochs: int | None,
    shifted: bool,
    teaching: Bundle,
    device: torch.device,
    report: Callable[[str], None],
) -> Manifest:
    """Train columns of a bundle on alone, and write ``folder/bundle`` with them in their places.

    They see the training images mirrored, and shifted too where ``shifted``, and learn what the best subnetwork of ``teaching`` answers. Their runs are ``folder/column-k``; stopped, it goes on where it was. Of all subnetworks those on the front of
    validation accuracy against multiply-adds are kept, and the full one.

    Raises:
        BundleError: subnetworks were imported.
        TrainingError: the bundle has no such column, the teacher has learnt images that are to validate, or a run fails.
    """
    manifest = bundle.manifest
    architecture, before = bundle.trained
    alone = {each.columns[0] for each in manifest.subnetworks if len(each.columns) == 1}
    if not set(columns) <= alone:
        raise TrainingError(
            f"{bundle.folder}: has the columns {sorted(alone)} alone, not {sorted(set(columns) - alone)}"
        )
    known = teaching.manifest
    for taught in filter(None, (known.provenance, *(each.provenance for each in known.networks))):
        is_same_data = taught.dataset_sha256 == data.sha256 and data.is_split_by_seed
        if is_same_data and taught.seed != before.seed:
            raise TrainingError(
                f"{teaching.folder}: was trained with seed {taught.seed}, which chose other validation images than "
                f"{before.seed} of {bundle.folder}; name a teacher of that seed"
            )
    recipe = SPECIALISED_SHIFTED if shifted else SPECIALISED
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    folder.mkdir(parents=True, exist_ok=True)
    teacher = ask(
        teaching,
        data,
        folder / ANSWERS_FILE,
        augmentation=recipe.augmentation,
        epochs=recipe.epochs,
    )
    specialists = {
        frozenset((column,)): train(
            recipe_for(column, architecture, recipe),
            data,
            folder / f"column-{column}",
            seed=before.seed,
            device=device,
            resume=True,
            group=Group(),
            begin_with=bundle.folder,
            teacher=teacher,
            report=report,
        )
        for column in sorted(columns)
    }
    origin = {
        "recipe": recipe.name,
        "epochs": recipe.epochs,
        "taught_by": teacher.description,
        "began_with": described(before.recipe, before.epochs, before.seed, before.began_with),
    }
    return export_specialists(bundle, specialists, data, folder / "bundle", provenance=origin)


def recipe_for(column: int, architecture: Architecture, recipe: Recipe) -> Recipe:
    """Return a recipe for one column of a network as a plain network of its own."""
    plain = replace(
        architecture,
        name=f"{architecture.name}-column-{column}",
        columns=column,
        divisors=architecture.divisors[:column],
        is_plain=True,
    )
    return replace(recipe, architecture=plain)
