"""Without a recipe one is chosen from the images and the device; what a run takes is said before it begins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.conftest import CPU
from training.__main__ import main
from training.commands.planning import Survey, foresee, outlook, photographs, recipe_for, survey
from training.config import Recipe
from training.data.data_set import DataSet
from training.runs.checkpoint import load_checkpoint


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
    recipe, why = photographs(seen, is_gpu=is_gpu)

    assert (recipe.preprocessing.size, recipe.fit) == (size, fit)
    assert f"{size}×{size} pixels" in why
    assert f"has {seen.shorter_side}" in why
    recipe.check()


def test_what_is_told_is_not_chosen_and_the_line_says_it() -> None:
    recipe, why = photographs(Survey(168, 480), is_gpu=False, image_size=32, fit="stretch")

    assert (recipe.preprocessing.size, recipe.fit) == (32, "stretch")
    assert recipe.augmentation == "crop"  # they are photographs all the same
    assert "32×32 pixels, stretched" in why


def test_fewer_images_are_seen_more_often_in_smaller_mini_batches() -> None:
    few, many = (photographs(Survey(n, 480), is_gpu=False)[0] for n in (100, 10_000))

    assert few.epochs > many.epochs
    assert few.batch_size < many.batch_size


def test_archives_and_named_sets_have_recipes_too() -> None:
    assert recipe_for("digits", CPU)[0].name == "tiny"
    assert recipe_for("cifar10", CPU)[0].name == "cpu-narrow-c4-muon"
    assert recipe_for("cifar10", torch.device("cuda"))[0].name == "gpu-wide-c3"


def test_more_epochs_and_larger_mini_batches_take_more(
    few_digits: DataSet, small_recipe: Recipe
) -> None:
    expected = outlook(replace(small_recipe, batch_size=32), few_digits, CPU)

    assert (expected.n_images, expected.epochs) == (128, 3)
    assert expected.bytes_of_image > 8 * 8 * (8 + 8 + 8) * 2  # what three layers give, in bf16
    assert replace(expected, batch_size=64).memory_bytes > expected.memory_bytes
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
