"""A run may begin with what another left, or with a bundle alone, for its own classes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from model.bundle import PRETRAINED_DIR, Precision, read_bundle
from model.fractal import FractalNet
from tests.training.conftest import TrainedRun
from training import TrainingError
from training.checkpoint import Checkpoint, load_weights
from training.data import DataSet
from training.origin import completed, read_origin

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
    origin = read_origin(bundle_in(precision))

    assert origin.description == trained.checkpoint.description
    network = FractalNet(trained.checkpoint.recipe.architecture_for(trained.data))
    for name, _ in network.named_parameters():
        assert_close(origin.weights[name], trained.checkpoint.model[name], rtol=rounding, atol=1e-7)
    load_weights(network, completed(origin.weights, network))


def test_the_shipped_bundle_can_be_gone_on_with() -> None:
    bundle = read_bundle(PRETRAINED_DIR / "cifar10")
    network = FractalNet(bundle.manifest.architecture)

    origin = read_origin(bundle.folder)

    assert {name for name, _ in network.named_parameters()} <= origin.weights.keys()
    load_weights(network, completed(origin.weights, network))


def test_a_run_begins_with_a_bundle_and_goes_on_without_it(
    bundle_folder: Path, tmp_path: Path, train_small: TrainSmall
) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    weights = read_origin(bundle).weights

    barely = train_small(begin_with=bundle, **BARELY)

    assert barely.origin == "small, 3 epochs, seed 0"
    assert_close(barely.model["classifier.weight"], weights["classifier.weight"])
    assert train_small(begin_with=bundle, resume=True, **BARELY).epoch == 1
    shutil.rmtree(bundle)
    assert train_small(begin_with=bundle, resume=True, **BARELY).epoch == 1


def test_other_classes_get_a_classifier_of_their_own(
    bundle_folder: Path, few_digits: DataSet, train_small: TrainSmall
) -> None:
    odd = replace(
        few_digits,
        classes=("even", "odd"),
        **{
            part: replace(split, labels=split.labels % 2)
            for part in ("train", "validation", "test")
            for split in [getattr(few_digits, part)]
        },
    )
    weights = read_origin(bundle_folder).weights

    barely = train_small(data=odd, begin_with=bundle_folder, **BARELY)

    assert barely.model["classifier.weight"].shape == (2, 16)
    assert_close(barely.model["blocks.0.conv.conv.weight"], weights["blocks.0.conv.conv.weight"])


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
