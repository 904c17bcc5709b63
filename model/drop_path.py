"""Drop-path: random paths through the network during training (§3.1).

Every function draws the paths of one whole mini-batch from the generator it is given, so that every process of a
distributed run that seeds it alike trains the same paths.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from model.path import Path, column_path, columns_ending_at
from model.presets import Architecture

LOCAL_DROP_PROBABILITY = 0.15  # §4.1

DropPath = Literal["mixed", "local", "global", "tied", "sandwich", "none"]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of a mini-batch: its path, and the weight of its loss."""

    path: Path
    weight: float = 1.0


def sample_local(
    rng: Random, *, blocks: int, columns: int, drop_probability: float = LOCAL_DROP_PROBABILITY
) -> Path:
    """Draw a local sample: each join drops each input independently, and keeps at least one.

    Where all are dropped, the survivor is drawn uniformly from the join's inputs.
    """

    def kept(row: int) -> frozenset[int]:
        inputs = sorted(columns_ending_at(row, columns))
        survivors = frozenset(k for k in inputs if rng.random() >= drop_probability)
        return survivors or frozenset((rng.choice(inputs),))

    rows = range(1, 2 ** (columns - 1) + 1)
    return Path(
        tuple({row: kept(row) for row in rows} for _ in range(blocks)), is_alone=columns == 1
    )


def sample_global(rng: Random, *, blocks: int, columns: int) -> Path:
    """Draw a global sample: a single column, the same through the whole network."""
    return column_path((rng.randint(1, columns),), blocks=blocks, columns=columns)


def sample_mixed(rng: Random, *, blocks: int, columns: int) -> Path:
    """Draw a local or a global sample, each half of the time (§4.1)."""
    sample = sample_local if rng.random() < 0.5 else sample_global
    return sample(rng, blocks=blocks, columns=columns)


def draw_passes(kind: DropPath, rng: Random, architecture: Architecture) -> tuple[Pass, ...]:
    """Draw the passes of one mini-batch.

    "tied" is one local sample with weight 1, then each of C columns alone with weight 1/C; "sandwich" is the full
    network, then a global sample; the others are one pass, "none" of every column that is built.
    """
    blocks, columns = architecture.blocks, architecture.columns
    if kind == "none":
        return (Pass(architecture.path_of(architecture.all_columns)),)
    if kind == "sandwich":
        full = architecture.path_of(architecture.all_columns)
        return (Pass(full), Pass(sample_global(rng, blocks=blocks, columns=columns)))
    if kind == "tied":
        alone = (architecture.path_of((k,)) for k in range(1, columns + 1))
        local = sample_local(rng, blocks=blocks, columns=columns)
        return (Pass(local), *(Pass(path, 1 / columns) for path in alone))
    return (Pass(_SAMPLERS[kind](rng, blocks=blocks, columns=columns)),)


_SAMPLERS: dict[DropPath, Callable[..., Path]] = {
    "mixed": sample_mixed,
    "local": sample_local,
    "global": sample_global,
}
