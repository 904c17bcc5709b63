"""Paths: which columns each join of a network keeps.

One description serves everything that runs a part of the network: a subnetwork keeps the same columns at every
join, a drop-path sample draws them join by join, and the full network keeps them all.

A block of C columns has 2^(C-1) rows, the layers of its deepest column. Neighbouring joins are collapsed (§3.1), so
row r holds one join, over the columns whose layers end there: column k ends at every multiple of 2^(C-k).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

BlockPath = Mapping[int, frozenset[int]]
"""The columns that the join at each row of a block keeps, by row (1..2^(C-1))."""


@dataclass(frozen=True, slots=True)
class Path:
    """The columns kept at every join of every block.

    Attributes:
        blocks: one ``BlockPath`` a block, first block first.
        is_alone: one and the same column is kept everywhere; such a path uses the batch norm of "column alone".
    """

    blocks: tuple[BlockPath, ...]
    is_alone: bool


def columns_ending_at(row: int, columns: int) -> frozenset[int]:
    """Return the columns of C = ``columns`` that are inputs of the join at ``row``."""
    return frozenset(k for k in range(1, columns + 1) if row % 2 ** (columns - k) == 0)


def column_path(active: Collection[int], *, blocks: int, columns: int) -> Path:
    """Return the path of a subnetwork: the ``active`` columns, kept at every join that they reach.

    Raises:
        ValueError: ``active`` is empty or names a column outside 1..``columns``.
    """
    kept = frozenset(active)
    if not kept or not kept <= frozenset(range(1, columns + 1)):
        raise ValueError(f"active columns are {sorted(kept)}; choose at least one of 1..{columns}")
    block = {
        row: columns_ending_at(row, columns) & kept for row in range(1, 2 ** (columns - 1) + 1)
    }
    return Path((block,) * blocks, is_alone=len(kept) == 1)


def subnetwork_name(active: Collection[int], columns: int) -> str:
    """Return the name of a subnetwork: ``column-2``, ``columns-1-3`` or, for all of C > 1, ``full``."""
    ordered = sorted(active)
    if len(ordered) == 1:
        return f"column-{ordered[0]}"
    if len(ordered) == columns:
        return "full"
    return "columns-" + "-".join(map(str, ordered))
