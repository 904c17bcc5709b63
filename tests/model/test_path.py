"""Which columns end where, and what subnetworks are called."""

import pytest

from model.path import column_path, columns_ending_at, subnetwork_name


def test_columns_end_at_multiples_of_their_row_height() -> None:
    ends = {row: set(columns_ending_at(row, 3)) for row in range(1, 5)}

    assert ends == {1: {3}, 2: {2, 3}, 3: {3}, 4: {1, 2, 3}}


def test_neighbouring_joins_are_one_join_of_all_columns_that_end_there() -> None:
    path = column_path((1, 2, 3), blocks=1, columns=3)

    assert path.blocks[0][4] == {1, 2, 3}


@pytest.mark.parametrize("active", [(), (0,), (1, 5)])
def test_columns_outside_the_network_are_refused(active: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="choose at least one of"):
        column_path(active, blocks=1, columns=4)


@pytest.mark.parametrize(
    ("active", "name"),
    [((2,), "column-2"), ((3, 1), "columns-1-3"), ((1, 2, 3, 4), "full")],
)
def test_a_subnetwork_is_named_by_its_columns(active: tuple[int, ...], name: str) -> None:
    assert subnetwork_name(active, 4) == name


def test_the_only_column_of_a_network_is_named_as_a_column() -> None:
    assert subnetwork_name((1,), 1) == "column-1"
