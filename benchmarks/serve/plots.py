"""Plots of what ``benchmarks.serve`` found, against the rate of the requests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

LEAST_ANSWERS = 50  # whose accuracy is known to some five points
PLOTS = "plots"  # folder beside the documents
SHOWN = (
    ("in_time", "in time"),
    ("accuracy", "accuracy of the answers in time"),
    ("correct_in_time", "correct in time"),
)

Point = Mapping[str, Any]
Curves = Mapping[str, Mapping[float, Sequence[Point]]]  # by system and rate


def file_name(name: str, key: str) -> str:
    """Return the file of a plot."""
    return f"{name}-{key.replace('_', '-')}.png"


def mean_of(points: Sequence[Point], key: str) -> Any:
    """Return the mean of a figure; None where no point has it.

    Accuracy is that of all answers in time together, where there are enough to tell.
    """
    if key == "accuracy":
        in_time = sum(point["in_time"] * point["offered"] for point in points)
        correct = sum(point["correct_in_time"] * point["offered"] for point in points)
        return correct / in_time if in_time >= LEAST_ANSWERS else None
    values = [point[key] for point in points if point[key] is not None]
    return mean(values) if values else None


def draw(name: str, curves: Curves, docs: Path) -> None:
    """Write one plot for each figure shown.

    Args:
        name: begins the files' names.
        curves: what to draw; ``anytime`` is the thick one.
        docs: the folder of documents.
    """
    (docs / PLOTS).mkdir(exist_ok=True)
    for key, title in SHOWN:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for system, curve in curves.items():
            points = [(rate, mean_of(each, key)) for rate, each in sorted(curve.items())]
            points = [(rate, value) for rate, value in points if value is not None]
            ours = system == "anytime"
            axes.plot(
                [rate for rate, _ in points],
                [value for _, value in points],
                marker=".",
                label=system,
                linewidth=2.5 if ours else 1.0,
                color="black" if ours else None,
                linestyle="--" if system.endswith("full") else "-",
            )
        axes.set(xscale="log", xlabel="requests offered a second", ylabel=title)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", fontsize="x-small", ncols=3)
        figure.savefig(docs / PLOTS / file_name(name, key), dpi=120)
