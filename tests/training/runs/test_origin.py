"""A run may begin with what another left, or with a bundle alone, for its own classes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from model.bundle import PRETRAINED_DIR, read_bundle
from model.fractal import FractalNet
from model.manifest import Precision
from tests.model.bundles import edit_manifest
from tests.training.conftest import TrainedRun
from training import TrainingError
from training.config import Recipe
from training.data.data_set import DataSet
from training.graphs.graph import weights_of
from training.importing.command import main as import_models
from training.runs.checkpoint import CHECKPOINT_FILE, Checkpoint, load_trained, load_weights
from training.runs.origin import completed, read_origin

TrainSmall = Callable[..., Checkpoint]
BARELY = {"epochs": 1, "learning_rate": 1e-9}


@pytest.mark.parametrize(
    ("precision", "rounding"),
    [("float32", 0.0), ("float16-filters", 2**-11), ("float16", 2**-11)],
)
def test_the_graphs_of_a_bundle_hold_the_weights_of_its_run(
    precision: Precision,
    rounding: float,
    bundle_in: Callable[[Precision], Path],
    trained: TrainedRun,
) -> None:
    origin = read_origin(bundle_in(precision), "small")

    assert origin.description == trained.checkpoint.description
    network = FractalNet(trained.checkpoint.recipe.architecture_for(trained.data))
    for name, _ in network.named_parameters():
        assert_close(origin.weights[name], trained.checkpoint.model[name], rtol=rounding, atol=1e-7)
    load_weights(network, completed(origin.weights, network))


def test_the_shipped_bundle_can_be_gone_on_with() -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10").part("wide-entry-c2")
    network = FractalNet(bundle.trained[0])

    origin = read_origin(bundle.folder, "wide-entry-c2")

    load_weights(network, completed(origin.weights, network))


def test_columns_with_filters_of_their_own_leave_the_network_as_it_was(tmp_path: Path) -> None:
    folder = shutil.copytree(PRETRAINED_DIR / "cifar10", tmp_path / "bundle")

    def join(
        manifest: dict[str, Any],
    ) -> None:  # the network of six layers as a column of the wide one
        (alone,) = (s for s in manifest["subnetworks"] if s["name"] == "alone-column-1")
        alone["network"] = "wide"

    edit_manifest(folder, join)
    bundle = read_bundle(folder).part("wide-entry-c2")
    column = bundle.manifest.subnetworks[0]
    network = FractalNet(bundle.trained[0])
    filters, norm = "blocks.0.conv.conv.weight", "blocks.0.conv.norms.{}.weight"

    weights = completed(read_origin(folder, "wide-entry-c2").weights, network)

    of_full, own = (weights_of(bundle.graph_path(each)) for each in (bundle.full, column))
    assert not torch.equal(own[filters], of_full[filters])
    assert torch.equal(weights[filters], of_full[filters])
    assert torch.equal(weights[norm.format("alone")], of_full[norm.format("joint")])


def test_of_several_networks_the_one_of_the_recipe_is_gone_on_with(
    bundle_folder: Path, tmp_path: Path, train_small: TrainSmall
) -> None:
    both = tmp_path / "both"
    words = [f"--with={name}={bundle_folder}" for name in ("a", "b")]
    import_models(["import", *words, "--data", "digits", "--keep", "all", "--out", str(both)])

    barely = train_small(begin_with=both, **BARELY)

    weights = read_origin(bundle_folder, "small").weights
    assert barely.origin == "small, 3 epochs, seed 0"
    assert_close(barely.model["classifier.weight"], weights["classifier.weight"])
    with pytest.raises(TrainingError, match="has no network tiny; its networks are small"):
        read_origin(both, "tiny")


def test_a_network_without_its_full_one_is_not_gone_on_with() -> None:
    with pytest.raises(TrainingError, match="of narrow-c4 it has only some columns"):
        read_origin(PRETRAINED_DIR / "cifar10", "narrow-c4")


def test_a_run_begins_with_a_bundle_and_goes_on_without_it(
    bundle_folder: Path, tmp_path: Path, train_small: TrainSmall
) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    weights = read_origin(bundle, "small").weights

    barely = train_small(begin_with=bundle, **BARELY)

    assert barely.origin == "small, 3 epochs, seed 0"
    assert_close(barely.model["classifier.weight"], weights["classifier.weight"])
    assert train_small(begin_with=bundle, resume=True, **BARELY).epoch == 1
    shutil.rmtree(bundle)
    assert train_small(begin_with=bundle, resume=True, **BARELY).epoch == 1


@pytest.fixture
def odd(few_digits: DataSet) -> DataSet:
    """The digits in two classes: other data."""
    return replace(
        few_digits,
        name="odd",
        classes=("even", "odd"),
        sha256="0" * 64,
        **{
            part: replace(split, labels=split.labels % 2)
            for part in ("train", "validation", "test")
            for split in [getattr(few_digits, part)]
        },
    )


def test_other_classes_get_a_classifier_of_their_own(
    bundle_folder: Path, odd: DataSet, train_small: TrainSmall
) -> None:
    weights = read_origin(bundle_folder, "small").weights
    lines: list[str] = []

    barely = train_small(data=odd, begin_with=bundle_folder, report=lines.append, **BARELY)

    assert (
        "; begins with small, 3 epochs, seed 0, its classifier drawn anew for 2 classes; "
        "that was trained on other data (digits), perhaps on images that validate here" in lines[0]
    )
    assert barely.model["classifier.weight"].shape == (2, 16)
    assert_close(barely.model["blocks.0.conv.conv.weight"], weights["blocks.0.conv.conv.weight"])


def test_a_run_on_the_data_of_its_origin_has_nothing_to_warn_of(
    bundle_folder: Path, train_small: TrainSmall
) -> None:
    lines: list[str] = []

    train_small(begin_with=bundle_folder, report=lines.append, **BARELY)

    assert lines[0].endswith("; begins with small, 3 epochs, seed 0")


def test_a_run_stopped_in_its_first_epoch_begins_again_with_the_same_weights(
    bundle_folder: Path, odd: DataSet, tmp_path: Path, train_small: TrainSmall
) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    lines: list[str] = []
    whole = train_small(tmp_path / "whole", data=odd, begin_with=bundle_folder, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "parts", data=odd, begin_with=bundle_folder, epochs=1, report=stop)
    with pytest.raises(TrainingError, match="stopped in its first epoch; go on with --resume"):
        load_trained(tmp_path / "parts")
    with pytest.raises(
        TrainingError, match=r"began with small, 3 epochs, seed 0, not with .*; small, 1"
    ):
        train_small(
            tmp_path / "parts", data=odd, epochs=1, resume=True, begin_with=tmp_path / "whole"
        )
    resumed = train_small(tmp_path / "parts", data=odd, epochs=1, resume=True, report=lines.append)

    assert "begins with small, 3 epochs, seed 0, its classifier drawn anew" in lines[0]
    assert resumed.origin == whole.origin
    assert all(torch.equal(whole.model[name], v) for name, v in resumed.model.items())


def test_weights_that_do_not_fit_leave_no_run_behind(
    bundle_folder: Path, tmp_path: Path, train_small: TrainSmall, small_recipe: Recipe
) -> None:
    wider = replace(small_recipe.architecture, channels=(8, 24))

    with pytest.raises(TrainingError, match="choose a run of the same network"):
        train_small(tmp_path / "run", begin_with=bundle_folder, architecture=wider)

    assert not (tmp_path / "run" / CHECKPOINT_FILE).exists()


def test_where_no_seed_chose_the_validation_images_any_seed_may_follow(
    few_digits: DataSet, tmp_path: Path, train_small: TrainSmall
) -> None:
    data = replace(few_digits, is_split_by_seed=False)
    train_small(tmp_path / "first", data=data, epochs=1)

    second = train_small(
        tmp_path / "second", data=data, seed=1, begin_with=tmp_path / "first", **BARELY
    )

    assert second.origin == "small, 1 epoch, seed 0"


def test_a_folder_of_neither_a_run_nor_a_bundle_is_one_clear_line(
    tmp_path: Path, train_small: TrainSmall
) -> None:
    with pytest.raises(TrainingError, match="typo: neither a run nor a bundle is there"):
        train_small(begin_with=tmp_path / "typo")


def test_a_damaged_bundle_to_begin_with_is_one_clear_line(
    bundle_folder: Path, tmp_path: Path, train_small: TrainSmall
) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    with (bundle / "weights.bin").open("r+b") as file:
        file.write(b"\xff")

    with pytest.raises(TrainingError, match=r"weights\.bin: content differs") as raised:
        train_small(begin_with=bundle)

    assert "\n" not in str(raised.value)


def test_statistics_may_be_missing_and_layers_may_not(trained: TrainedRun) -> None:
    model = trained.checkpoint.model
    network = FractalNet(trained.checkpoint.recipe.architecture_for(trained.data))
    own = network.state_dict()
    mean, weight = (f"blocks.0.conv.norms.joint.{part}" for part in ("running_mean", "weight"))

    filled = completed({name: v for name, v in model.items() if name != mean}, network)
    assert torch.equal(filled[mean], own[mean])
    assert torch.equal(filled[weight], model[weight])

    short = completed({name: v for name, v in model.items() if name != weight}, network)
    with pytest.raises(TrainingError, match=rf"{weight} is missing"):
        load_weights(network, short)
