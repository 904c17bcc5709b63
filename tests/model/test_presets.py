"""Architectures refuse numbers that describe no network, and fit themselves to data."""

from dataclasses import replace
from typing import Any

import pytest

from model.presets import PRESETS

NARROW = PRESETS["narrow-c4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": 0}, "columns is 0"),
        ({"channels": ()}, "channels is"),
        ({"channels": (16, 0, 64, 128, 128)}, "channels is"),
        ({"classes": 1}, "classes is 1"),
        ({"dropout": (0.1,)}, "dropout names 1 blocks"),
        ({"dropout": (0, 0, 0, 0, 1.0)}, "must be in"),
        ({"divisors": (1, 2)}, "divisors is"),
        ({"divisors": (8, 4, 2, 1)}, "no column is wider"),
        ({"divisors": (1, 2, 4, 32)}, "must divide"),
        ({"image_size": 16}, "need at least 32"),
    ],
)
def test_impossible_numbers_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(NARROW, **changes)


def test_small_images_keep_the_blocks_that_fit() -> None:
    fitted = NARROW.for_data(classes=10, image_size=8)

    assert fitted.channels == NARROW.channels[:3]
    assert fitted.final_size == 1


def test_a_stem_leaves_fewer_blocks_to_small_images() -> None:
    fitted = PRESETS["fractalnet-34"].for_data(classes=10, image_size=32)

    assert fitted.blocks == 3
    assert fitted.first_size == 8


def test_images_smaller_than_a_stem_fit_no_network() -> None:
    with pytest.raises(ValueError, match="channels is"):
        PRESETS["fractalnet-34"].for_data(classes=10, image_size=4)


def test_thinner_columns_keep_their_share_in_every_block() -> None:
    thinning = PRESETS["thinning-c4"]

    assert thinning.widths(0) == (128, 64, 32, 16)
    assert thinning.widths(4) == (1024, 512, 256, 128)


def test_a_plain_network_is_the_deepest_column() -> None:
    assert PRESETS["plain-40"].all_columns == {4}
