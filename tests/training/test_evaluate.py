"""Scores, and re-estimated batch norm."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from model.fractal import FractalNet
from model.preprocessing import Preprocessing
from tests.training.conftest import TrainedRun
from training.augment import Normalisation, channel_statistics
from training.data.data_set import DataSet, load_data
from training.data.splits import TensorSplit
from training.data.ten_crop import around, ten_crops
from training.distributed import Group
from training.evaluate import (
    EVALUATION_BATCH,
    Score,
    evaluate_checkpoint,
    evaluation_batch,
    extract_each_for_serving,
    extract_for_serving,
    predict,
    predict_each,
    score,
    top_error,
)
from training.runs.checkpoint import restore_network
from training.trainer import train

CPU = torch.device("cpu")


def test_a_score_is_the_fraction_of_correct_answers_and_the_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])

    scored = score(logits, torch.tensor([0, 1, 1]))

    assert_close(scored.accuracy, 2 / 3)
    assert_close(scored.loss, float(torch.tensor([0.126928, 0.126928, 2.126928]).mean()))
    assert scored.n == 3


def test_an_accuracy_is_the_less_sure_the_fewer_images_it_rests_on() -> None:
    few, many = (Score(accuracy=0.75, loss=0.0, n=n).interval for n in (24, 2400))

    # Wilson's: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96
    assert_close(few, (0.55099, 0.88003), atol=1e-4, rtol=0)
    assert_close(many, (0.73228, 0.76691), atol=1e-4, rtol=0)


def test_answers_that_are_no_numbers_are_wrong() -> None:
    logits = torch.tensor([[2.0, 0.0], [math.nan, math.nan], [math.inf, 0.0]])

    found = score(logits, torch.tensor([0, 0, 0]))

    assert found == Score(accuracy=1 / 3, loss=math.inf, n=3)


def test_an_image_is_among_the_likeliest_whatever_its_place_among_them() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 1.0, 3.0]])
    labels = torch.tensor([1, 0, 2])

    errors = [top_error(logits, labels, k) for k in (1, 2, 3, 5)]

    assert errors == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_of_an_image_the_corners_the_middle_and_their_mirror_images_are_seen() -> None:
    image = torch.arange(36).view(1, 6, 6, 1)

    crops = ten_crops(image, 4)

    assert [crop[0, 0, 0].item() for crop in crops[:5]] == [0, 2, 12, 14, 7]
    assert all(crop.shape == (1, 4, 4, 1) for crop in crops)
    for crop, mirrored in zip(crops[:5], crops[5:], strict=True):
        assert torch.equal(mirrored, crop.flip(2))


def test_the_middle_crop_is_what_the_network_sees_otherwise(class_folders: Path) -> None:
    seen = Preprocessing(size=14, shorter_side=16)
    ours, wider = (
        load_data(str(class_folders), seed=0, preprocessing=how).test
        for how in (seen, around(seen))
    )
    (pixels,), (larger,) = (
        [images for images, _ in each.batches([torch.arange(len(each))])] for each in (ours, wider)
    )

    difference = ten_crops(larger, 14)[4].int() - pixels.int()

    assert difference.abs().max() <= 1  # levels: one is interpolated at a shift of whole pixels


def test_answers_to_several_views_are_averaged_as_probabilities(
    digits: DataSet, trained: TrainedRun
) -> None:
    network = restore_network(trained.checkpoint, digits)
    normalise = channel_statistics(digits.train)

    def views(images: torch.Tensor) -> list[torch.Tensor]:
        return [images, images.flip(2)]

    (seen_once,), (averaged,) = (
        predict_each([network], digits.test, normalise, views=each) for each in (None, views)
    )

    mirrored = TensorSplit(digits.test.images.flip(2), digits.test.labels)  # type: ignore[attr-defined]
    (other,) = predict_each([network], mirrored, normalise)
    assert torch.allclose(averaged.exp(), (seen_once.softmax(1) + other.softmax(1)) / 2, atol=1e-5)


def test_prediction_leaves_the_network_training(digits: DataSet, trained: TrainedRun) -> None:
    network = restore_network(trained.checkpoint, digits).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    predict(network, digits.validation, channel_statistics(digits.train))

    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@dataclass(frozen=True)
class CountedNormalisation(Normalisation):
    """Notes how many images it was given."""

    seen: list[int]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        return super().__call__(images)


def test_images_are_read_once_however_many_subnetworks_classify_them(
    digits: DataSet, trained: TrainedRun
) -> None:
    network = restore_network(trained.checkpoint, digits)
    plain = channel_statistics(digits.train)
    normalise = CountedNormalisation(plain.mean, plain.std, seen=[])
    sets = ((1,), (2,), (1, 2))

    subnetworks = extract_each_for_serving(network, sets, digits.train, normalise)
    assert sum(normalise.seen) == len(digits.train)
    together = predict_each(subnetworks, digits.test, normalise)

    assert sum(normalise.seen) == len(digits.train) + len(digits.test)
    for active, logits in zip(sets, together, strict=True):
        alone = extract_for_serving(network, active, digits.train, plain)
        assert torch.equal(logits, predict(alone, digits.test, plain))


def test_of_larger_images_fewer_are_scored_at_once() -> None:
    assert [evaluation_batch(size) for size in (8, 32, 64, 224, 2000)] == [250, 250, 62, 5, 1]


@pytest.mark.parametrize(("active", "mode"), [((1,), "alone"), ((1, 2), "joint")])
@pytest.mark.parametrize("n", [EVALUATION_BATCH + 1, 1294])
def test_a_subnetwork_gets_the_statistics_of_training_images_each_counting_alike(
    digits: DataSet, trained: TrainedRun, active: tuple[int, ...], mode: str, n: int
) -> None:
    assert isinstance(digits.train, TensorSplit)
    network = restore_network(trained.checkpoint, digits)
    normalise = channel_statistics(digits.train)
    training = digits.train.take(torch.arange(n))

    subnetwork = extract_for_serving(network, active, training, normalise)

    layer = subnetwork.get_submodule("blocks.0.conv")
    outputs = layer.get_submodule("conv")(normalise(training.images))
    norm = layer.get_submodule(f"norms.{mode}")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # Chunks of one size within one image: means of chunks, and variances within them.
    assert_close(norm.running_mean, outputs.mean((0, 2, 3)), atol=1e-3, rtol=1e-3)
    assert_close(norm.running_var, outputs.var((0, 2, 3)), atol=1e-3, rtol=2e-2)
    assert isinstance(subnetwork, FractalNet)
    assert not any(module.training for module in subnetwork.modules())


def test_columns_that_training_never_ran_alone_are_worth_something(
    trained: TrainedRun,
) -> None:
    recipe = replace(trained.checkpoint.recipe, drop_path="local")
    run = train(
        recipe,
        trained.data,
        trained.folder / "local",
        seed=0,
        device=CPU,
        resume=False,
        group=Group(),
    )

    scores = evaluate_checkpoint(run, trained.data, trained.data.validation, CPU)

    assert min(each.accuracy for each in scores.values()) > 0.3  # 0.1 by chance


def test_the_full_network_of_a_trained_run_recognises_digits(trained: TrainedRun) -> None:
    scores = evaluate_checkpoint(trained.checkpoint, trained.data, trained.data.validation, CPU)

    assert set(scores) == {"column-1", "column-2", "full"}
    assert scores["full"].accuracy > 0.7  # 0.1 by chance
    assert scores["full"].n == len(trained.data.validation)
