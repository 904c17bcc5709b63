"""The paper's claims, one command each: train the networks of a table, set their figures beside the paper's.

Every network is a run in a folder of its own; a reproduction that was stopped goes on where it was.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from model import cost
from model.preprocessing import Preprocessing
from training import epochs_in_words
from training.config import RECIPES, Recipe, shortened
from training.data.data_set import DataSet
from training.data.splits import Split
from training.data.ten_crop import ten_crops
from training.distributed import Group
from training.evaluate import (
    evaluate_checkpoint,
    predict_checkpoint,
    reported_subnetworks,
    score,
    top_error,
)
from training.runs.checkpoint import Checkpoint
from training.runs.files import written_whole
from training.trainer import train

if TYPE_CHECKING:  # what draws takes a second to load; the other commands do without
    from matplotlib.figure import Figure

TRAIN_IMAGES = 5_000  # that the loss on training images is measured on
FRACTAL, DEEP_PLAIN = "paper-narrow-c4", "paper-plain-40"
DROPPED, UNDROPPED = "narrow-c4-not-augmented", "narrow-c4-not-augmented-no-drop-path"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: a subnetwork of a recipe's network, and what the paper found, in percent."""

    label: str
    recipe: str
    subnetwork: str
    paper_loss: float | None = None
    paper_error: float | None = None
    paper_top_5: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What was found for a subnetwork: cross-entropy on training images, errors on test images in percent."""

    parameters: int
    depth: int
    train_loss: float
    error: float
    top_5: float  # of the five likeliest classes none is right


Results = Mapping[tuple[str, str], Result]
"""What was found, by recipe and subnetwork."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """What to train, what to write down, and what the paper claims of it.

    Attributes:
        paper: what the paper's figures are of.
        has_ten_crops: of every test image ten parts are looked at, and the five likeliest classes count too.
    """

    title: str
    recipes: tuple[Recipe, ...]
    rows: tuple[Row, ...]
    claims: tuple[tuple[str, Callable[[Results], bool]], ...] = ()
    paper: str = "CIFAR-100++, 400 epochs"
    has_ten_crops: bool = False

    @property
    def epochs(self) -> int:
        """As many as in the paper."""
        return self.recipes[0].epochs

    @property
    def preprocessing(self) -> Preprocessing:
        """How images of class folders become pixels; all recipes see them alike."""
        return self.recipes[0].preprocessing

    @property
    def views(self) -> Preprocessing:
        """How those become pixels that are learnt from."""
        return self.recipes[0].views


def _best_column(results: Results) -> float:
    """Return the lowest error of a column of the fractal network alone."""
    return min(results[FRACTAL, f"column-{k}"].error for k in range(1, 5))


_FRACTAL_ROWS = (
    Row("Fractal column 1 alone", FRACTAL, "column-1", 0.677, 37.23),
    Row("Fractal column 2 alone", FRACTAL, "column-2", 0.141, 32.85),
    Row("Fractal column 3 alone", FRACTAL, "column-3", 0.029, 31.31),
    Row("Fractal column 4 alone", FRACTAL, "column-4", 0.016, 31.75),
    Row("Fractal, full", FRACTAL, "full", 0.015, 27.40),
)
_PLAIN_40 = Row("Plain", DEEP_PLAIN, "column-4", 0.580, 38.84)

EXPERIMENTS = {
    "table2": Experiment(
        "Table 2: ImageNet",
        (RECIPES["paper-imagenet"],),
        (Row("FractalNet-34", "paper-imagenet", "full", None, 24.12, 7.39),),
        paper="ImageNet, 70 epochs, ten crops",
        has_ten_crops=True,
    ),
    "table3": Experiment(
        "Table 3: ever deeper fractal networks",
        tuple(RECIPES[f"paper-narrow-c{c}"] for c in range(1, 7)),
        tuple(
            Row(f"C = {c}", f"paper-narrow-c{c}", "full" if c > 1 else "column-1", None, error)
            for c, error in enumerate((37.32, 30.71, 27.69, 27.38, 26.46, 27.38), start=1)
        ),
        (
            (
                "the 40-layer network (C = 4) is better than the 20-layer one (C = 3)",
                lambda r: r[FRACTAL, "full"].error < r["paper-narrow-c3", "full"].error,
            ),
        ),
    ),
    "table4": Experiment(
        "Table 4: plain networks, and the columns of a fractal one",
        (
            *(RECIPES[f"paper-plain-{depth}"] for depth in (5, 10, 20, 40)),
            RECIPES[FRACTAL],
        ),
        (
            Row("Plain", "paper-plain-5", "column-1", 0.786, 36.62),
            Row("Plain", "paper-plain-10", "column-2", 0.159, 32.47),
            Row("Plain", "paper-plain-20", "column-3", 0.037, 31.31),
            _PLAIN_40,
            *_FRACTAL_ROWS,
        ),
        (
            (
                "the plain 40-layer network trains worse than the same network as a column",
                lambda r: r[DEEP_PLAIN, "column-4"].train_loss > r[FRACTAL, "column-4"].train_loss,
            ),
            (
                "the full network beats every column",
                lambda r: r[FRACTAL, "full"].error < _best_column(r),
            ),
        ),
    ),
    "figure3": Experiment(
        "Figure 3: every column, and a plain network of the same depth, over training",
        (RECIPES[DEEP_PLAIN], RECIPES[FRACTAL]),
        (_PLAIN_40, *_FRACTAL_ROWS),
    ),
    "drop-path": Experiment(
        "Drop-path, without augmentation",
        (
            replace(RECIPES[FRACTAL], name=DROPPED, augmentation="none"),
            replace(RECIPES[FRACTAL], name=UNDROPPED, augmentation="none", drop_path="none"),
        ),
        (
            Row("Full, without drop-path", UNDROPPED, "full"),
            Row("Full, with drop-path", DROPPED, "full"),
        ),
        (
            (
                "drop-path helps without augmentation",
                lambda r: r[DROPPED, "full"].error < r[UNDROPPED, "full"].error,
            ),
        ),
    ),
}
"""What can be reproduced, by name."""


def reproduce(
    name: str,
    data: DataSet,
    folder: Path,
    *,
    cropped: Split | None = None,
    epochs: int,
    is_short: bool,
    seed: int,
    device: torch.device,
    group: Group,
    report: Callable[[str], None],
) -> None:
    """Train what an experiment needs and write ``<name>.md`` and ``<name>.png`` into ``folder``.

    ``is_short`` replaces the paper's SGD and steps by Muon and one cycle, which a few epochs are enough for. The test images are looked at once, at the end;
    ``cropped`` are the same, larger, where ten crops of each are looked at.
    """
    experiment = EXPERIMENTS[name]
    checkpoints = {}
    for recipe in experiment.recipes:
        run = folder / recipe.name
        checkpoints[recipe.name] = train(
            replace(shortened(recipe) if is_short else recipe, epochs=epochs),
            data,
            run,
            seed=seed,
            device=device,
            resume=True,
            group=group,
            report=report,
        )
    if group.rank > 0:
        return
    results = {
        (recipe, subnetwork): result
        for recipe, checkpoint in checkpoints.items()
        for subnetwork, result in _measure(
            checkpoint,
            data,
            cropped,
            device,
            [r.subnetwork for r in experiment.rows if r.recipe == recipe],
        ).items()
    }
    optimiser = "Muon, one cycle" if is_short else "the paper's SGD"
    conditions = (
        f"{data.name}: {len(data.train)} training and {len(data.test)} test images, {epochs_in_words(epochs)}, {optimiser}, "
        f"seed {seed}, {device.type}, torch {version('torch')}"
    )
    table = _markdown(experiment, results, conditions)
    with written_whole(folder / f"{name}.md") as file:
        file.write(table.encode())
    loss_of_a_guess = math.log(len(data.classes))
    figure = _plot(experiment, checkpoints, results, conditions, loss_of_a_guess)
    with written_whole(folder / f"{name}.png") as file:
        figure.savefig(file, dpi=150)
    report(table)


def _measure(
    checkpoint: Checkpoint,
    data: DataSet,
    cropped: Split | None,
    device: torch.device,
    subnetworks: Sequence[str],
) -> dict[str, Result]:
    """Return the figures of some subnetworks."""
    architecture = checkpoint.recipe.architecture_for(data)
    seen = data.train.take(torch.arange(min(TRAIN_IMAGES, len(data.train))))
    on_train = evaluate_checkpoint(checkpoint, data, seen, device, only=subnetworks)
    views = partial(ten_crops, size=data.image_size) if cropped else None
    on_test = predict_checkpoint(
        checkpoint, data, cropped or data.test, device, only=subnetworks, views=views
    )
    return {
        name: Result(
            parameters=cost.parameters(architecture, active),
            depth=cost.depth(architecture, active),
            train_loss=on_train[name].loss,
            error=100 * (1 - score(on_test[name], data.test.labels).accuracy),
            top_5=100 * top_error(on_test[name], data.test.labels, 5),
        )
        for name, active in reported_subnetworks(architecture).items()
        if name in subnetworks
    }


def _markdown(experiment: Experiment, results: Results, conditions: str) -> str:
    """Return the table beside the paper's, and which of its claims hold."""

    def figure(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    lines = [
        f"# {experiment.title}",
        "",
        f"{conditions}. The paper's figures: {experiment.paper}.",
        "",
        "| network | depth | parameters | train loss | test error, % | paper: train loss | paper: error, % |"
        + (" top-5 error, % | paper: top-5 error, % |" if experiment.has_ten_crops else ""),
        "|---|---:|---:|---:|---:|---:|---:|" + ("---:|---:|" if experiment.has_ten_crops else ""),
    ]
    for row in experiment.rows:
        found = results[row.recipe, row.subnetwork]
        cells = (
            row.label,
            str(found.depth),
            f"{found.parameters / 1e6:.1f}M",
            figure(found.train_loss, 3),
            figure(found.error, 2),
            figure(row.paper_loss, 3),
            figure(row.paper_error, 2),
            *((figure(found.top_5, 2), figure(row.paper_top_5, 2)) * experiment.has_ten_crops),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for text, holds in experiment.claims:
        lines += [
            "",
            f"- Claim: {text}. **{'Holds' if holds(results) else 'Does not hold'} here.**",
        ]
    return "\n".join(lines) + "\n"


def _plot(
    experiment: Experiment,
    checkpoints: Mapping[str, Checkpoint],
    results: Results,
    conditions: str,
    loss_of_a_guess: float,
) -> "Figure":
    """Draw the loss of every row's subnetwork over training, plain networks dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    least = [loss_of_a_guess]
    for row in experiment.rows:
        history = checkpoints[row.recipe].history
        losses = [record[f"{row.subnetwork}/loss"] for record in history]
        least.append(min(losses))
        axes.plot(
            [record["epoch"] for record in history],
            losses,
            label=f"{row.label}, {results[row.recipe, row.subnetwork].depth} layers",
            linestyle="--" if "plain" in row.recipe else "-",
            marker="o" if len(history) == 1 else None,  # a line of one point is none
        )
    # Statistics that lag behind the weights can cost a column any loss at first: twice that of a guess is shown.
    axes.set(xlabel="epoch", ylabel="loss on validation images", yscale="log")
    axes.set_ylim(bottom=0.9 * min(least), top=2 * loss_of_a_guess)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{experiment.title}\n{conditions}", fontsize=8, parse_math=False)
    figure.legend(loc="outside right center", fontsize=8)
    return figure
