"""One tiny trained run and its bundle, for every test that needs one; folders and archives as users have them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.manifest import Precision
from model.presets import Architecture
from training.config import RECIPES, Recipe
from training.data.data_set import DataSet, load_data
from training.data.splits import TensorSplit
from training.distributed import Group
from training.export.export import export_bundle
from training.runs.checkpoint import Checkpoint
from training.trainer import train

CPU = torch.device("cpu")
SMALL = Architecture("small", columns=2, channels=(8, 16), classes=10, image_size=8)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors: more threads only wait for each other."""
    torch.set_num_threads(1)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run on digits."""

    folder: Path
    data: DataSet
    checkpoint: Checkpoint
    lines: list[str]


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """Two columns and two blocks on digits: an epoch takes a second."""
    return replace(RECIPES["tiny"], name="small", architecture=SMALL, epochs=3)


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load_data("digits", seed=0)


@pytest.fixture(scope="session")
def few_digits(digits: DataSet) -> DataSet:
    """Some hundred digits, for runs of which only the mechanics matter."""

    def some(split: object, n: int) -> TensorSplit:
        assert isinstance(split, TensorSplit)
        return split.take(torch.arange(n))

    return replace(
        digits,
        train=some(digits.train, 128),
        validation=some(digits.validation, 32),
        test=some(digits.test, 32),
    )


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, digits: DataSet, small_recipe: Recipe
) -> TrainedRun:
    folder = tmp_path_factory.mktemp("run")
    lines: list[str] = []
    checkpoint = train(
        small_recipe,
        digits,
        folder,
        seed=0,
        device=CPU,
        resume=False,
        group=Group(),
        report=lines.append,
    )
    return TrainedRun(folder, digits, checkpoint, lines)


@pytest.fixture(scope="session")
def bundle_in(
    tmp_path_factory: pytest.TempPathFactory, trained: TrainedRun
) -> Callable[[Precision], Path]:
    """Export the run in a precision, once, and return the bundle's folder."""
    parent = tmp_path_factory.mktemp("bundles")

    @cache
    def exported(precision: Precision) -> Path:
        folder = parent / precision
        export_bundle(trained.checkpoint, trained.data, folder, name="digits", precision=precision)
        return folder

    return exported


@pytest.fixture(scope="session")
def bundle_folder(bundle_in: Callable[[Precision], Path]) -> Path:
    return bundle_in("float32")


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes, dark and light, 20 images each to train on, of various sizes and formats."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 20), ("test", 4)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                noise = rng.integers(-20, 20, (20 + i, 30, 3))
                image = Image.fromarray((level + noise).astype(np.uint8))
                image.save(folder / f"{i:03}.{'png' if i % 2 else 'jpg'}")
    return tmp_path


@pytest.fixture
def train_small(
    tmp_path: Path, few_digits: DataSet, small_recipe: Recipe
) -> Callable[..., Checkpoint]:
    """Train the small recipe on a few digits for two epochs, with changes."""

    def run(
        folder: Path = tmp_path / "run",
        *,
        data: DataSet = few_digits,
        seed: int = 0,
        resume: bool = False,
        begin_with: Path | None = None,
        report: Callable[[str], None] = lambda line: None,
        **changes: object,
    ) -> Checkpoint:
        recipe = replace(small_recipe, **{"epochs": 2, "batch_size": 32, **changes})  # type: ignore[arg-type]
        return train(
            recipe,
            data,
            folder,
            seed=seed,
            device=CPU,
            resume=resume,
            group=Group(),
            begin_with=begin_with,
            report=report,
        )

    return run


@pytest.fixture
def overflowing(trained: TrainedRun) -> Checkpoint:
    """The finished run with a deepest column that alone overflows, though all its weights are finite."""
    model = dict(trained.checkpoint.model)
    for name in model:
        if re.search(r"\.(first|second)\..*norms\.alone\.weight$", name):
            model[name] = torch.full_like(model[name], 3e38)
    return replace(trained.checkpoint, model=model)
