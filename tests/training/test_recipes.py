"""Each recipe builds, trains a few steps and exports: its own network, with fewer channels and blocks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.bundle import read_bundle
from model.preprocessing import Preprocessing
from model.presets import Architecture
from tests.training.conftest import CPU
from training.config import RECIPES
from training.data.data_set import DataSet
from training.data.splits import TensorSplit
from training.distributed import Group
from training.export.export import export_bundle
from training.trainer import train

GENERATOR = torch.Generator().manual_seed(0)


def random_images(n: int, size: int) -> TensorSplit:
    images = torch.randint(0, 256, (n, size, size, 3), generator=GENERATOR, dtype=torch.uint8)
    return TensorSplit(images, torch.arange(n) % 3)


def data_of(size: int) -> DataSet:
    return DataSet(
        name="random",
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(size=size),
        train=random_images(24, size),
        validation=random_images(6, size),
        test=random_images(6, size),
        sha256="0" * 64,
    )


def shrunk(architecture: Architecture) -> Architecture:
    """The same kind of network, two blocks wide and, but for the plain ones, two columns deep."""
    columns = min(architecture.columns, 2)
    return replace(
        architecture,
        name="shrunk",
        columns=columns,
        channels=(8, 16),
        divisors=architecture.divisors[:columns],
        dropout=architecture.dropout[-2:],
        image_size=32,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_a_few_steps(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    size = 16 if recipe.architecture.stem else 8
    recipe = replace(recipe, architecture=shrunk(recipe.architecture), epochs=1, batch_size=8)

    checkpoint = train(
        recipe, data_of(size), tmp_path, seed=0, device=CPU, resume=False, group=Group()
    )

    assert checkpoint.epoch == 1
    assert checkpoint.history[0]["train_loss"] > 0


KINDS = {shrunk(recipe.architecture): name for name, recipe in RECIPES.items()}
"""A recipe of every network that is another one even when it is shrunk."""


@pytest.mark.parametrize("name", KINDS.values())
def test_every_kind_of_network_exports(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    size = 16 if recipe.architecture.stem else 8
    recipe = replace(recipe, architecture=shrunk(recipe.architecture), epochs=1, batch_size=8)
    data = data_of(size)
    checkpoint = train(recipe, data, tmp_path, seed=0, device=CPU, resume=False, group=Group())

    export_bundle(checkpoint, data, tmp_path / "bundle", name="bundle")  # checks every file

    columns = recipe.architecture.columns
    names = {s.name for s in read_bundle(tmp_path / "bundle").manifest.subnetworks}
    if recipe.architecture.is_plain or columns == 1:
        assert names == {f"column-{columns}"}
    else:
        assert names >= {"column-1", "column-2", "full"}
