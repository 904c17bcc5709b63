"""Frequencies of drop-path, and what every sample must keep."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.drop_path import draw_passes, sample_global, sample_local, sample_mixed
from model.path import Path, columns_ending_at
from model.presets import PRESETS

DRAWS = 4000
BLOCKS, COLUMNS = 2, 4
# A frequency over n independent draws is within 4.5 standard deviations, 4.5·sqrt(p(1-p)/n), but for 7 in a million
# seeds; the seeds here are fixed.


def tolerance(p: float, n: int) -> float:
    return float(4.5 * (p * (1 - p) / n) ** 0.5)


def is_one_column(path: Path) -> bool:
    """The last joins of all blocks keep the same single column."""
    ends = {block[2 ** (COLUMNS - 1)] for block in path.blocks}
    return len(ends) == 1 and len(next(iter(ends))) == 1


def test_local_samples_drop_each_input_with_probability_15_percent() -> None:
    rng = Random(1)
    kept: Counter[int] = Counter()
    for _ in range(DRAWS):
        kept.update(sample_local(rng, blocks=1, columns=COLUMNS).blocks[0][8])

    # Input k of the last join stays with 0.85, or as the sole survivor of four drops: 0.15^4 / 4.
    p = 0.85 + 0.15**4 / 4
    for column in range(1, COLUMNS + 1):
        assert kept[column] / DRAWS == pytest.approx(p, abs=tolerance(p, DRAWS))


def test_inputs_of_a_join_are_dropped_independently() -> None:
    rng = Random(2)
    both = sum(
        not {1, 2} & sample_local(rng, blocks=1, columns=COLUMNS).blocks[0][8] for _ in range(DRAWS)
    )

    p = 0.15**2 * (1 - 0.15**2 / 2)  # less the draws that drop all four and keep 1 or 2 of them
    assert both / DRAWS == pytest.approx(p, abs=tolerance(p, DRAWS))


def test_the_survivor_of_a_join_is_drawn_uniformly() -> None:
    rng = Random(3)
    survivors: Counter[int] = Counter()
    for _ in range(DRAWS):
        (survivor,) = sample_local(rng, blocks=1, columns=COLUMNS, drop_probability=1.0).blocks[0][
            8
        ]
        survivors[survivor] += 1

    for column in range(1, COLUMNS + 1):
        assert survivors[column] / DRAWS == pytest.approx(0.25, abs=tolerance(0.25, DRAWS))


def test_a_global_sample_is_one_column_in_every_block_and_row() -> None:
    rng = Random(4)
    for _ in range(100):
        path = sample_global(rng, blocks=BLOCKS, columns=COLUMNS)

        kept = {column for block in path.blocks for row in block.values() for column in row}
        assert len(kept) == 1
        assert path.is_alone


def test_global_samples_choose_every_column_alike() -> None:
    rng = Random(5)
    chosen = Counter(
        next(iter(sample_global(rng, blocks=1, columns=COLUMNS).blocks[0][8])) for _ in range(DRAWS)
    )

    for column in range(1, COLUMNS + 1):
        assert chosen[column] / DRAWS == pytest.approx(0.25, abs=tolerance(0.25, DRAWS))


def test_mixed_samples_are_global_half_of_the_time() -> None:
    rng = Random(6)
    alone = sum(sample_mixed(rng, blocks=BLOCKS, columns=COLUMNS).is_alone for _ in range(DRAWS))

    assert alone / DRAWS == pytest.approx(0.5, abs=tolerance(0.5, DRAWS))


@given(
    seed=st.integers(0, 2**32),
    blocks=st.integers(1, 4),
    columns=st.integers(1, 5),
    drop_probability=st.sampled_from([0.0, 0.15, 0.9, 1.0]),
)
def test_every_join_keeps_at_least_one_of_its_own_inputs(
    seed: int, blocks: int, columns: int, drop_probability: float
) -> None:
    path = sample_local(
        Random(seed), blocks=blocks, columns=columns, drop_probability=drop_probability
    )

    assert len(path.blocks) == blocks
    for block in path.blocks:
        assert block.keys() == set(range(1, 2 ** (columns - 1) + 1))
        for row, kept in block.items():
            assert kept
            assert kept <= columns_ending_at(row, columns)


def test_blocks_of_a_local_sample_are_drawn_apart() -> None:
    path = sample_local(Random(7), blocks=6, columns=COLUMNS)

    assert len({tuple(block.values()) for block in path.blocks}) > 1


def test_the_same_generator_draws_the_same_paths() -> None:
    first, second = (
        [sample_mixed(rng, blocks=BLOCKS, columns=COLUMNS) for _ in range(20)]
        for rng in (Random(8), Random(8))
    )

    assert first == second
    assert len({path.is_alone for path in first}) == 2


def test_a_sandwich_is_the_full_network_and_any_one_column() -> None:
    architecture = PRESETS["narrow-c3"]
    rng = Random(4)

    drawn = [draw_passes("sandwich", rng, architecture) for _ in range(50)]

    columns = [architecture.path_of((k,)) for k in (1, 2, 3)]
    assert all(full.path == architecture.path_of((1, 2, 3)) for full, _ in drawn)
    assert all(alone.path in columns for _, alone in drawn)
    assert all(any(alone.path == column for _, alone in drawn) for column in columns)
    assert all(each.weight == 1 for passes in drawn for each in passes)


def test_tied_passes_are_a_local_sample_and_every_column_weighted_by_their_number() -> None:
    architecture = PRESETS["narrow-c4"]

    local, *alone = draw_passes("tied", Random(9), architecture)

    assert local.weight == 1
    assert not local.path.is_alone
    assert [is_one_column(sample.path) for sample in alone] == [True] * 4
    assert [set(sample.path.blocks[0][8]) for sample in alone] == [{1}, {2}, {3}, {4}]
    assert [sample.weight for sample in alone] == [0.25] * 4


def test_without_drop_path_every_built_column_runs() -> None:
    (full,) = draw_passes("none", Random(10), PRESETS["narrow-c3"])
    (plain,) = draw_passes("none", Random(10), PRESETS["plain-20"])

    assert full.path.blocks[0][4] == {1, 2, 3}
    assert plain.path.blocks[0][4] == {3}
