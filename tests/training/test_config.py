"""Every recipe of the paper is there by name, with the paper's numbers."""

from dataclasses import replace

import pytest

from model.preprocessing import Preprocessing
from training import TrainingError
from training.config import RECIPES
from training.data.data_set import DataSet


@pytest.mark.parametrize(
    "name", [n for n in RECIPES if n.startswith(("paper-narrow", "paper-plain"))]
)
def test_narrow_and_plain_networks_train_as_tables_3_and_4(name: str) -> None:
    recipe = RECIPES[name]

    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (400, 50, 0.02)
    assert (recipe.schedule, recipe.augmentation) == ("paper", "++")
    assert recipe.drop_path == ("none" if "plain" in name else "mixed")


def test_imagenet_trains_as_the_paper_says() -> None:
    recipe = RECIPES["paper-imagenet"]

    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (70, 32, 0.001)
    assert recipe.preprocessing == Preprocessing(size=224, shorter_side=256)


def test_the_wide_networks_drop_out_more_in_deeper_blocks() -> None:
    assert RECIPES["paper-wide-c3"].architecture.dropout == (0.0, 0.1, 0.2, 0.3, 0.4)
    assert RECIPES["paper-svhn"].epochs == 20


def test_a_network_is_fitted_to_the_data(digits: DataSet) -> None:
    architecture = RECIPES["paper-narrow-c4"].architecture_for(replace(digits, classes=("a", "b")))

    assert architecture.classes == 2
    assert architecture.image_size == 8


def test_images_too_small_for_a_recipe_are_one_clear_line(digits: DataSet) -> None:
    with pytest.raises(TrainingError, match="digits: does not fit recipe paper-imagenet"):
        RECIPES["paper-imagenet"].architecture_for(
            replace(digits, preprocessing=Preprocessing(size=3))
        )
