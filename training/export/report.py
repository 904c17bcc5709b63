"""The report of a bundle: one HTML file to look at, with what its subnetworks are worth, by whom nothing is fetched.

Accuracies are on the test images, latencies of one image on the machine that exported the bundle.
"""

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.cores import cores
from model.manifest import Manifest, Subnetwork
from training.data.data_set import DataSet
from training.graphs.scores import Logits
from training.runs.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html")
IMAGES = 8  # of those that the next subnetwork gets right, in a row
SHOWN_SIDE = 96  # pixels that a small image is enlarged to, by whole numbers
MOST_CLASSES = (
    30  # that a confusion matrix has room for; of more, the commonest mistakes are listed
)
MISTAKES = 20
ROOM_FOR_NAMES = 1.3  # times the slowest latency, as each name stands to the right of its point
BINS = 10  # of confidence, in the drawing of calibration


@dataclass(frozen=True, slots=True)
class Seen:
    """What a subnetwork answered to the test images.

    Attributes:
        classes: (N,), what it took each for.
        confidences: (N,), how sure it was.
        latency_ms: of a run with one image, on this machine.
    """

    classes: NDArray[np.int64]
    confidences: NDArray[np.float64]
    latency_ms: float


def seen_by(logits: Logits, latency_ms: float) -> Seen:
    """Return what calibrated logits of the test images (N, classes) say."""
    from scipy.special import softmax  # takes a moment to load

    return Seen(logits.argmax(1), softmax(logits.astype(np.float64), axis=1).max(1), latency_ms)


@dataclass(frozen=True, slots=True)
class Step:
    """From one subnetwork to the next that is worth its time: what that gets right of what the first gets wrong."""

    before: str
    after: str
    n_gained: int
    n_lost: int
    pictures: list[tuple[str, str, str]]  # data URL, what it is, what it was taken for


def write_report(path: Path, manifest: Manifest, data: DataSet, seen: Mapping[str, Seen]) -> None:
    """Write the report of a bundle, from what each of its subnetworks answered to the test images."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    labels = data.test.labels.numpy()
    front = worth_their_time(manifest, seen)
    best = front[-1]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = environment.get_template(TEMPLATE.name).render(
        manifest=manifest,
        n_test=len(labels),
        machine=f"{platform.machine()}, {cores()} cores",
        seen=seen,
        front=front,
        chart=_svg(draw_front(manifest, seen, front)),
        calibration=_svg(_draw_calibration(front, seen, labels)),
        best=best,
        confusion=_confusion(seen[best.name].classes, labels, len(data.classes)),
        mistakes=_mistakes(seen[best.name].classes, labels, data.classes),
        steps=[_step(before, after, data, seen, labels) for before, after in pairwise(front)],
    )
    with written_whole(path) as file:
        file.write(content.encode())


def worth_their_time(manifest: Manifest, seen: Mapping[str, Seen]) -> list[Subnetwork]:
    """Return the subnetworks that are expected to be more accurate than every faster one, fastest first."""
    front: list[Subnetwork] = []
    for each in sorted(manifest.subnetworks, key=lambda each: seen[each.name].latency_ms):
        expected = each.accuracy.estimate.value
        if not front or expected > front[-1].accuracy.estimate.value:
            front.append(each)
    return front


def _step(
    before: Subnetwork,
    after: Subnetwork,
    data: DataSet,
    seen: Mapping[str, Seen],
    labels: NDArray[np.int64],
) -> Step:
    answers = seen[before.name].classes
    was_right, is_right = answers == labels, seen[after.name].classes == labels
    gained = np.flatnonzero(~was_right & is_right)
    # The surest mistakes first.
    shown = gained[np.argsort(-seen[before.name].confidences[gained], kind="stable")][:IMAGES]
    pictures = []
    if len(shown):
        chosen = data.test.take(torch.from_numpy(shown))
        ((images, _),) = chosen.batches([torch.arange(len(shown))])
        pictures = [
            (_picture(pixels), data.classes[labels[i]], data.classes[answers[i]])
            for pixels, i in zip(images.numpy(), shown, strict=True)
        ]
    n_lost = int((was_right & ~is_right).sum())
    return Step(before.name, after.name, len(gained), n_lost, pictures)


def _picture(pixels: NDArray[np.uint8]) -> str:
    """Return an image as a URL that holds it."""
    times = max(1, SHOWN_SIDE // len(pixels))
    file = BytesIO()
    Image.fromarray(pixels.repeat(times, 0).repeat(times, 1)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _confusion(
    answers: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> list[list[int]]:
    """Return how many images of each class (rows) were taken for each (columns); nothing where there is no room."""
    if classes > MOST_CLASSES:
        return []
    counts = np.bincount(labels * classes + answers, minlength=classes**2)
    rows: list[list[int]] = counts.reshape(classes, classes).tolist()
    return rows


def _mistakes(
    answers: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[tuple[str, str, int]]:
    """Return the commonest mistakes: what was taken for what, how often."""
    pairs, counts = np.unique(np.stack([labels, answers], 1), axis=0, return_counts=True)
    found = [
        (-n, a, b) for (a, b), n in zip(pairs.tolist(), counts.tolist(), strict=True) if a != b
    ]
    return [(classes[a], classes[b], -n) for n, a, b in sorted(found)[:MISTAKES]]


def draw_front(
    manifest: Manifest, seen: Mapping[str, Seen], front: Sequence[Subnetwork]
) -> "Figure":
    """Draw the expected accuracy of each subnetwork, and how sure it is, against its latency."""
    figure, axes = _figure()
    for each in manifest.subnetworks:
        estimate, latency_ms = each.accuracy.estimate, seen[each.name].latency_ms
        low, high = (
            100 * max(0.0, side)
            for side in (estimate.value - estimate.low, estimate.high - estimate.value)
        )
        is_worth_it = each in front
        axes.errorbar(
            latency_ms,
            100 * estimate.value,
            [[low], [high]],
            fmt="o",
            color="#1457a8" if is_worth_it else "#999999",
            capsize=3,
        )
        axes.annotate(
            each.name,
            (latency_ms, 100 * estimate.value),
            (6, -12),
            textcoords="offset points",
            fontsize=8,
        )
    steps = [(seen[each.name].latency_ms, 100 * each.accuracy.estimate.value) for each in front]
    axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color="#1457a8")
    axes.set(xlabel="latency of one image, ms", ylabel="expected accuracy, %")
    slowest_ms = max(own.latency_ms for own in seen.values())
    axes.set_xlim(0, ROOM_FOR_NAMES * slowest_ms)
    return figure


def _draw_calibration(
    front: Sequence[Subnetwork], seen: Mapping[str, Seen], labels: NDArray[np.int64]
) -> "Figure":
    """Draw how often an answer is right against how sure it is."""
    figure, axes = _figure()
    axes.plot([0, 100], [0, 100], ":", color="#999999")
    for each in (front[0], front[-1]) if len(front) > 1 else front:
        own = seen[each.name]
        bins = (own.confidences * BINS).astype(int).clip(max=BINS - 1)
        n = np.bincount(bins, minlength=BINS)
        right = np.bincount(bins, own.classes == labels, minlength=BINS)
        sure = np.bincount(bins, own.confidences, minlength=BINS)
        some = n > 0
        axes.plot(100 * sure[some] / n[some], 100 * right[some] / n[some], "o-", label=each.name)
    axes.set(xlabel="confidence, %", ylabel="of these answers are right, %")
    axes.legend(fontsize=8)
    return figure


def _figure() -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # takes a second to load

    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: "Figure") -> str:
    """Return a drawing as an element of a page."""
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
