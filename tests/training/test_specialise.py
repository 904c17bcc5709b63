"""Columns get filters of their own where that answers more, and the bundle keeps its front."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.bundle import Bundle, read_bundle
from model.fractal import FractalNet
from model.presets import PRESETS
from tests.training.conftest import CPU, SMALL, TrainedRun
from training import TrainingError
from training.config import SPECIALISED
from training.graphs.graph import weights_of
from training.runs.origin import completed
from training.specialise import recipe_for, specialise


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return read_bundle(bundle_folder)


def specialised(
    bundle: Bundle,
    trained: TrainedRun,
    folder: Path,
    *,
    columns: tuple[int, ...],
    shifted: bool = False,
    teaching: Bundle | None = None,
) -> None:
    """Train columns of a bundle on for an epoch, taught by itself unless another is to."""
    specialise(
        bundle,
        trained.data,
        folder,
        columns=columns,
        epochs=1,
        shifted=shifted,
        teaching=teaching or bundle,
        device=CPU,
        report=lambda line: None,
    )


def test_the_new_bundle_is_a_front_and_no_column_got_worse(
    bundle: Bundle, trained: TrainedRun, tmp_path: Path
) -> None:
    specialised(bundle, trained, tmp_path, columns=(1, 2))

    before = {each.columns: each for each in bundle.manifest.subnetworks}
    after = read_bundle(tmp_path / "bundle")
    subnetworks = after.manifest.subnetworks
    accuracies = [each.accuracy.validation.value for each in subnetworks]
    assert subnetworks[-1].name == "full"
    assert accuracies[:-1] == sorted(set(accuracies[:-1]))
    for each in subnetworks:
        assert each.accuracy.validation.value >= before[each.columns].accuracy.validation.value
    _, origin = after.trained
    assert origin.recipe == SPECIALISED.name
    assert origin.began_with == "small, 3 epochs, seed 0"


def test_shifted_images_are_said_in_the_provenance(
    bundle: Bundle, trained: TrainedRun, tmp_path: Path
) -> None:
    specialised(bundle, trained, tmp_path, columns=(1,), shifted=True)

    _, origin = read_bundle(tmp_path / "bundle").trained
    assert (origin.recipe, origin.epochs) == ("specialised-shifted", 1)


def test_a_column_that_is_not_there_is_one_clear_line(
    bundle: Bundle, trained: TrainedRun, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"has the columns \[1, 2\] alone, not \[3\]"):
        specialised(bundle, trained, tmp_path, columns=(1, 3))


@pytest.mark.parametrize("column", [1, 2])
def test_a_column_of_its_own_begins_as_the_column_that_it_was(bundle: Bundle, column: int) -> None:
    network = FractalNet(recipe_for(column, SMALL, SPECIALISED).architecture)
    (shared,) = (each for each in bundle.manifest.subnetworks if each.columns == (column,))
    weights = weights_of(bundle.graph_path(shared))

    network.load_state_dict(completed(weights | {"others.weight": torch.ones(1)}, network))

    own = network.state_dict()
    assert {name for name in own if not name.endswith("num_batches_tracked")} == set(weights)
    assert all(torch.equal(own[name], values) for name, values in weights.items())


def test_thinner_columns_stay_thin() -> None:
    thinning = PRESETS["thinning-c4"]

    own = recipe_for(3, thinning, SPECIALISED).architecture

    assert own.all_columns == {3}
    assert own.widths(0) == thinning.widths(0)[:3]


def test_a_teacher_that_has_learnt_validation_images_is_one_clear_line(
    bundle: Bundle, trained: TrainedRun, tmp_path: Path
) -> None:
    _, origin = bundle.trained
    other = origin.model_copy(update={"seed": origin.seed + 1})
    teaching = replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": other}))

    with pytest.raises(
        TrainingError, match="was trained with seed 1, which chose other validation"
    ):
        specialised(bundle, trained, tmp_path, columns=(1,), teaching=teaching)
