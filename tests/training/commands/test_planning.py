"""Without a recipe one is chosen from the images and the device; what a run takes is said before it begins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.bundle import PRETRAINED_DIR
from tests.training.conftest import CPU
from training.__main__ import main
from training.commands.planning import Survey, choose, for_folder, foresee, outlook, survey
from training.config import Recipe
from training.data.data_set import DataSet
from training.runs.checkpoint import load_checkpoint
from training.runs.origin import read_origin


def test_a_folder_is_surveyed_without_reading_its_images(class_folders: Path) -> None:
    assert survey(class_folders) == Survey(n_train=40, shorter_side=30)
    assert survey(class_folders / "train").n_train == 28  # the others validate and test


@pytest.mark.parametrize(
    ("seen", "is_gpu", "size", "fit"),
    [
        (Survey(n_train=168, shorter_side=480), False, 64, "crop"),
        (Survey(n_train=168, shorter_side=480), True, 128, "crop"),
        (Survey(n_train=5000, shorter_side=120), True, 64, "crop"),
        (Survey(n_train=50_000, shorter_side=32), False, 32, "stretch"),
    ],
)
def test_larger_photographs_are_seen_larger_and_cropped(
    seen: Survey, is_gpu: bool, size: int, fit: str
) -> None:
    choice = for_folder(seen, is_gpu=is_gpu)

    assert (choice.recipe.preprocessing.size, choice.recipe.fit) == (size, fit)
    assert f"{size}×{size} pixels" in choice.why
    assert f"has {seen.shorter_side}" in choice.why
    choice.recipe.check()


@pytest.mark.parametrize("is_gpu", [False, True])
def test_few_images_go_on_with_the_shipped_network_and_many_draw_their_weights(
    *, is_gpu: bool
) -> None:
    few, many = (for_folder(Survey(n, 480), is_gpu=is_gpu) for n in (168, 50_000))

    assert few.begin_with == PRETRAINED_DIR / "cifar10"
    assert "begun with the shipped network" in few.why
    assert "168 images" in few.why
    read_origin(few.begin_with, few.recipe.architecture.name)
    assert many.begin_with is None
    # Too small for all of its blocks
    assert for_folder(Survey(168, 480), is_gpu=is_gpu, image_size=8).begin_with is None


def test_what_is_told_is_not_chosen_and_the_line_says_it() -> None:
    choice = for_folder(Survey(168, 480), is_gpu=False, image_size=32, fit="stretch")

    assert (choice.recipe.preprocessing.size, choice.recipe.fit) == (32, "stretch")
    assert choice.recipe.augmentation == "crop"  # they are photographs all the same
    assert "32×32 pixels, stretched" in choice.why


def test_few_images_mean_small_mini_batches_and_for_drawn_weights_more_epochs() -> None:
    few, many = (for_folder(Survey(n, 480), is_gpu=False).recipe for n in (100, 10_000))
    # Too small for all of the shipped network's blocks
    few_drawn = for_folder(Survey(100, 480), is_gpu=False, image_size=8).recipe

    assert few_drawn.epochs > few.epochs == many.epochs
    assert few.batch_size < many.batch_size


def test_archives_and_named_sets_have_recipes_too() -> None:
    assert choose("digits", CPU).recipe.name == "tiny"
    assert choose("cifar10", CPU).recipe.name == "cpu-narrow-c4-muon"
    assert choose("cifar10", torch.device("cuda")).recipe.name == "gpu-wide-c3"


def test_more_epochs_and_larger_mini_batches_take_more(
    few_digits: DataSet, small_recipe: Recipe
) -> None:
    expected = outlook(replace(small_recipe, batch_size=32), few_digits, CPU)

    assert (expected.n_images, expected.epochs) == (128, 3)
    assert expected.bytes_of_image > 8 * 8 * (8 + 8 + 8) * 2  # what three layers give, in bf16
    assert replace(expected, bytes_to_score=1e12).memory_bytes > 1e12
    assert replace(expected, batch_size=100_000).memory_bytes > 2 * expected.memory_bytes
    assert replace(expected, batch_size=64).epoch_s < expected.epoch_s  # half of the steps
    assert expected.epoch_s > expected.scoring_s > 0
    line, batch_size = foresee(small_recipe, few_digits, CPU)
    assert "images/s" in line
    assert batch_size == small_recipe.batch_size


def test_a_mini_batch_is_made_to_fit_into_memory(few_digits: DataSet, small_recipe: Recipe) -> None:
    expected = outlook(small_recipe, few_digits, CPU)
    free_bytes = 1.5 * expected.memory_bytes

    assert expected.fitting(10 * free_bytes) == expected
    large = replace(expected, bytes_of_image=100 * 2**20, batch_size=64)
    fitting = large.fitting(3 * 2**30)
    assert fitting.batch_size in (8, 16)
    assert fitting.memory_bytes < 3 * 2**30


def test_foreseeing_draws_none_of_the_runs_random_numbers(
    few_digits: DataSet, small_recipe: Recipe
) -> None:
    state = torch.get_rng_state()

    outlook(small_recipe, few_digits, CPU)

    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_is_trained_on_without_a_recipe_and_goes_on_without_one(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--data", str(class_folders), "--out", str(run), "--image-size", "8"]

    assert main([*arguments, "--epochs", "1"]) == 0

    said = capsys.readouterr().out
    assert said.startswith("recipe cpu-narrow-c4-muon on a CPU; 8×8 pixels, stretched: ")
    assert "will take about " in said
    assert load_checkpoint(run).recipe.batch_size == 16
    assert main([*arguments, "--resume"]) == 0
    assert "has ended" in capsys.readouterr().out
