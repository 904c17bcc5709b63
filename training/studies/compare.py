"""Ways to train a model for shipping, at equal cost: the same network and data, each way with epochs of its own.

A way whose steps are dearer gets fewer epochs, by the multiply-adds on its paths. Those of the optimiser
are not counted; what everything took stands beside.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from statistics import mean

import torch

from model.cost import path_macs
from model.drop_path import DropPath, draw_passes
from model.presets import PRESETS, Architecture
from training.config import RECIPES
from training.data.data_set import DataSet
from training.distributed import Group
from training.evaluate import Score, evaluate_checkpoint
from training.runs.checkpoint import Checkpoint
from training.runs.files import written_whole
from training.trainer import train

DRAWN_STEPS = 10_000  # whose mean cost is a way's cost a step, within 1 %

_BASE = RECIPES["cpu-narrow-c4-muon"]
WAYS = {
    "mixed": _BASE,
    "mixed, SGD": RECIPES["cpu-narrow-c4"],
    "tied": replace(_BASE, drop_path="tied"),
    "tied, distilled": replace(_BASE, drop_path="tied", distillation=0.5),
    "sandwich": replace(_BASE, drop_path="sandwich"),
    "sandwich, distilled": replace(_BASE, drop_path="sandwich", distillation=0.5),
    "local": replace(_BASE, drop_path="local"),
    "global": replace(_BASE, drop_path="global"),
    "mixed, stepped rate": replace(_BASE, schedule="paper"),
    "mixed, averaged weights": replace(_BASE, averaging=0.998),
    "mixed, smoothed labels": replace(_BASE, label_smoothing=0.1),
}
"""What is compared, the first with all the others; a change at a time."""


def compare(
    columns: int,
    data: DataSet,
    folder: Path,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    group: Group,
    report: Callable[[str], None],
) -> None:
    """Train the narrow network of ``columns`` columns in every way and write ``compare.md`` into ``folder``.

    The first way gets ``epochs`` epochs, each other as many as cost the same. They are scored on the validation images:
    what is found decides how models are trained. Stopped, a comparison goes on where it was.
    """
    architecture = PRESETS[f"narrow-c{columns}"]
    first = next(iter(WAYS.values()))
    checkpoints = []
    for label, way in WAYS.items():
        share = mean_cost(first.drop_path, architecture) / mean_cost(way.drop_path, architecture)
        recipe = replace(
            way,
            name=label,
            architecture=architecture,
            epochs=max(1, round(epochs * share)),
        )
        run = folder / label.replace(", ", "-").replace(" ", "-")
        checkpoints.append(
            train(
                recipe,
                data,
                run,
                seed=seed,
                device=device,
                resume=True,
                group=group,
                report=report,
            )
        )
    if group.rank > 0:
        return
    rows = [
        (each, evaluate_checkpoint(each, data, data.validation, device)) for each in checkpoints
    ]
    table = _markdown(architecture, rows, data, seed)
    with written_whole(folder / "compare.md") as file:
        file.write(table.encode())
    report(table)


@cache
def mean_cost(drop_path: DropPath, architecture: Architecture) -> float:
    """Return the mean multiply-adds of an image in one step, forward."""
    paths = Random(0)
    drawn = (draw_passes(drop_path, paths, architecture) for _ in range(DRAWN_STEPS))
    return mean(sum(path_macs(architecture, each.path) for each in passes) for passes in drawn)


def _markdown(
    architecture: Architecture,
    rows: list[tuple[Checkpoint, dict[str, Score]]],
    data: DataSet,
    seed: int,
) -> str:
    """Return the table of every way: what it took, and the error of each column alone and of the full network."""
    names = list(rows[0][1])
    lines = [
        f"{architecture.name} on {len(data.train)} training images of {data.name}, seed {seed}; "
        f"error on {len(data.validation)} validation images, %.",
        "",
        f"| way | epochs | minutes | {' | '.join(names)} |",
        f"|---|---:|---:|{'---:|' * len(names)}",
    ]
    for checkpoint, scores in rows:
        seconds = sum(len(data.train) / record["images_per_s"] for record in checkpoint.history)
        errors = (f"{100 * (1 - scores[name].accuracy):.1f}" for name in names)
        lines.append(
            f"| {checkpoint.recipe.name} | {checkpoint.epoch} | {seconds / 60:.1f} | {' | '.join(errors)} |"
        )
    return "\n".join(lines) + "\n"
