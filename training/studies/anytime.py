"""Anytime evaluation of a bundle, as the field does it (Huang et al., *Multi-Scale Dense Networks*, ICLR 2018).

- Anytime: the accuracy of each subnetwork against its multiply-adds and its latency on this machine, with the front.
- Budgeted batch: many images share a budget. All start in the cheapest subnetwork of the front; those whose
  confidence is too low go on to the next. Subnetworks reuse nothing of each other, so every one run is paid for.

Fronts and thresholds are chosen on validation images, accuracies are those on test images.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from model.bundle import Bundle
from model.cores import cores
from model.manifest import Subnetwork
from model.sessions import open_session
from training.data.data_set import DataSet
from training.data.splits import Split
from training.evaluate import in_order
from training.graphs.scores import LATENCY_RUNS, latencies_ms
from training.runs.files import written_whole

if TYPE_CHECKING:  # what draws takes a second to load; the other commands do without
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Side = Literal["left", "right"]

EXIT_RATIOS = np.geomspace(
    0.05, 20, 40
)  # of the images that leave at one stage to those at the one before


@dataclass(frozen=True, slots=True)
class Measurement:
    """A subnetwork on this machine.

    Attributes:
        latency_ms: of a run with one image.
        validation: probabilities (N, classes) of the validation images.
        test: of the test images.
        test_accuracy: on them.
    """

    subnetwork: Subnetwork
    latency_ms: float
    validation: Floats
    test: Floats
    test_accuracy: float

    @property
    def mmacs(self) -> float:
        """Millions of multiply-adds of one image."""
        return self.subnetwork.macs / 1e6


@dataclass(frozen=True, slots=True)
class Point:
    """Budgeted batch: the mean cost of an image, and the accuracy that it buys on test images."""

    mmacs: float
    accuracy: float


def evaluate_anytime(bundle: Bundle, data: DataSet, folder: Path) -> str:
    """Measure a bundle, write ``anytime.md`` and ``anytime.png`` into ``folder``, and return the table."""
    subnetworks = bundle.manifest.subnetworks
    graphs = [*subnetworks, *(s.in_int8 for s in subnetworks if s.in_int8)]
    each = _measure_each(bundle, graphs, data)
    measured = each[: len(subnetworks)]
    in_int8 = {m.subnetwork.name: m for m in each[len(subnetworks) :]}
    labels, test_labels = data.validation.labels.numpy(), data.test.labels.numpy()
    stages = front(measured, lambda m: m.mmacs)
    curve = budgeted_curve(stages, test_labels)
    conditions = (
        f"{bundle.manifest.name} on {len(test_labels)} test images of {data.name}; front chosen on {len(labels)} "
        f"validation images; latency: median of {LATENCY_RUNS} runs of one image, {platform.machine()}, "
        f"{cores()} cores, ONNX Runtime {onnxruntime.__version__}"
    )
    table = _markdown(measured, in_int8, stages, curve, conditions)
    with written_whole(folder / "anytime.md") as file:
        file.write(table.encode())
    with written_whole(folder / "anytime.png") as file:
        _plot(measured, list(in_int8.values()), curve, conditions).savefig(file, dpi=150)
    return table


def front(
    measured: Sequence[Measurement], cost: Callable[[Measurement], float]
) -> list[Measurement]:
    """Return the subnetworks expected to be more accurate than every cheaper one, cheapest first."""
    chosen: list[Measurement] = []
    for m in sorted(measured, key=cost):
        accuracy = m.subnetwork.accuracy.estimate.value
        if not chosen or accuracy > chosen[-1].subnetwork.accuracy.estimate.value:
            chosen.append(m)
    return chosen


def exit_thresholds(confidences: Floats, shares: Floats) -> Floats:
    """Return the confidence (stages,) from which an image leaves at each stage.

    Args:
        confidences: (stages, N), of every image at every stage.
        shares: (stages,), of the images that are to leave at each.
    """
    staying = np.ones(confidences.shape[1], bool)
    thresholds = np.zeros(len(shares))  # whoever is left leaves at the last stage
    for stage in range(len(shares) - 1):
        if staying.any():
            share = shares[stage] / shares[stage:].sum()
            thresholds[stage] = np.quantile(confidences[stage, staying], 1 - share)
        staying &= confidences[stage] < thresholds[stage]
    return thresholds


def budgeted_curve(stages: Sequence[Measurement], test_labels: NDArray[np.int64]) -> list[Point]:
    """Return what budgets buy, cheapest first; each has its own share of images leaving at each stage."""
    confidences = np.stack([m.validation.max(1) for m in stages])  # (stages, N)
    test = np.stack([m.test for m in stages])  # (stages, N, classes)
    paid = np.cumsum([m.mmacs for m in stages])
    curve = []
    for ratio in EXIT_RATIOS:
        shares = ratio ** np.arange(len(stages), dtype=float)
        thresholds = exit_thresholds(confidences, shares / shares.sum())
        left_at = (test.max(2) >= thresholds[:, None]).argmax(
            0
        )  # (N,), the first stage that is sure
        answers = test.argmax(2)[left_at, np.arange(test.shape[1])]
        curve.append(Point(float(paid[left_at].mean()), float((answers == test_labels).mean())))
    return sorted(curve, key=lambda point: point.mmacs)


def _measure_each(
    bundle: Bundle, subnetworks: Sequence[Subnetwork], data: DataSet
) -> list[Measurement]:
    """Time the subnetworks by turns, and run each on the validation and test images."""
    sessions = [open_session(bundle.graph_path(s), threads=cores()) for s in subnetworks]
    image, _ = next(data.test.batches([torch.arange(1)]))
    measured = []
    for subnetwork, session, latency_ms in zip(
        subnetworks, sessions, latencies_ms(sessions, image.numpy()), strict=True
    ):
        validation, test = (_probabilities(session, part) for part in (data.validation, data.test))
        is_right = test.argmax(1) == data.test.labels.numpy()
        measured.append(
            Measurement(subnetwork, latency_ms, validation, test, float(is_right.mean()))
        )
    return measured


def _probabilities(session: onnxruntime.InferenceSession, split: Split) -> Floats:
    """Return what a subnetwork says of a split's images, (N, classes)."""
    batches = split.batches(in_order(split))
    runs = [session.run(["probabilities"], {"images": images.numpy()})[0] for images, _ in batches]
    return np.concatenate(runs).astype(np.float64)


def _markdown(
    measured: Sequence[Measurement],
    in_int8: Mapping[str, Measurement],
    stages: Sequence[Measurement],
    curve: Sequence[Point],
    conditions: str,
) -> str:
    """Return the table of the subnetworks, and of some budgets."""
    lines = [
        "# Anytime evaluation",
        "",
        f"{conditions}.",
        "",
        "| subnetwork | MMACs | latency, ms | test accuracy, % | in int8: latency, ms | test accuracy, % | on the front |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for m in measured:
        own = in_int8.get(m.subnetwork.name)
        cells = (m.subnetwork.name, f"{m.mmacs:.2f}", *_figures(m), *_figures(own))
        lines.append(f"| {' | '.join(cells)} | {'yes' if m in stages else ''} |")
    lines += ["", "| budgeted batch, mean MMACs | test accuracy, % |", "|---:|---:|"]
    lines += [f"| {p.mmacs:.2f} | {100 * p.accuracy:.2f} |" for p in curve[:: len(curve) // 8]]
    return "\n".join(lines) + "\n"


def _figures(measured: Measurement | None) -> tuple[str, str]:
    """Return latency and test accuracy for the table, empty where nothing was measured."""
    if measured is None:
        return "", ""
    return f"{measured.latency_ms:.3f}", f"{100 * measured.test_accuracy:.2f}"


def _plot(
    measured: Sequence[Measurement],
    in_int8: Sequence[Measurement],
    curve: Sequence[Point],
    conditions: str,
) -> "Figure":
    """Draw accuracy against multiply-adds, with the budgeted curve, and against latency."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_macs, by_latency = figure.subplots(1, 2, sharey=True)
    _draw_front(by_macs, measured, lambda m: m.mmacs, "front")
    by_macs.plot(
        [p.mmacs for p in curve],
        [100 * p.accuracy for p in curve],
        ":",
        label="budgeted batch, exits by confidence",
    )
    by_macs.set(xlabel="MMACs an image", ylabel="test accuracy, %")
    by_macs.legend(fontsize=8)
    in_float_named: Side | None = None if in_int8 else "right"
    _draw_front(by_latency, measured, lambda m: m.latency_ms, "front in float", in_float_named)
    if in_int8:  # the faster: there is room on its left
        _draw_front(by_latency, in_int8, lambda m: m.latency_ms, "front in int8", "left")
    by_latency.set(xlabel="latency of one image, ms")
    by_latency.legend(fontsize=8)
    figure.suptitle(conditions, fontsize=7, parse_math=False)
    return figure


def _draw_front(
    axes: "Axes",
    measured: Sequence[Measurement],
    cost: Callable[[Measurement], float],
    label: str,
    names: Side | None = "right",
) -> None:
    """Draw every subnetwork, with its name on this side of it, and the front as a line."""
    from matplotlib.ticker import LogFormatter

    def test_accuracy(m: Measurement) -> float:
        return 100 * m.test_accuracy

    chosen = front(measured, cost)
    axes.plot([cost(m) for m in chosen], [test_accuracy(m) for m in chosen], "-", label=label)
    for m in measured:
        axes.plot(cost(m), test_accuracy(m), "o", color="black", markersize=3)
        if names:
            axes.annotate(
                m.subnetwork.name,
                (cost(m), test_accuracy(m)),
                (5, -9) if names == "right" else (-5, 3),
                textcoords="offset points",
                ha="left" if names == "right" else "right",
                fontsize=7,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # few of them
    axes.margins(x=0.28)  # for the outermost names
