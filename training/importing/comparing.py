"""Networks side by side on the same images and this machine: who is beaten by whom."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.cores import cores
from model.manifest import Source, Subnetwork
from model.sessions import open_session
from training import TrainingError
from training.export.choice import LUCK, Right, is_worse
from training.graphs.scores import Logits
from training.importing.images import MeasuredImages

LATENCY_ROUNDS = 30
LATENCY_S = 10.0  # for all rounds; large networks take fewer
SURE = 3.0  # standard errors of guessing

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network that may be kept.

    Attributes:
        name: its subnetwork's.
        graph: where it is, wrapped.
        macs: multiply-adds an image.
        parameters: its weights.
        source: the file that it was imported from.
        known: what the bundle that it comes from says of it.
        int8: where it is in 8-bit integers, if it is.
        temperature: what its probabilities' logits are divided by, where that was found already.
        views: how often it looks at an image.
    """

    name: str
    graph: Path
    macs: int
    parameters: int
    source: Source | None = None
    known: Subnetwork | None = None
    int8: Path | None = None
    temperature: float | None = None
    views: int = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate on the validation images and on this machine.

    Attributes:
        logits: of the images.
        in_int8: the same in 8-bit integers, where they are there.
        right: whether it is right on each image.
        latency_s: of a run with one image, in the faster precision that is as accurate.
    """

    candidate: Candidate
    logits: Logits
    in_int8: Logits | None
    right: Right
    latency_s: float

    @property
    def accuracy(self) -> float:
        """The share of the images that it is right on."""
        return float(self.right.mean())

    def beats(self, other: "Measured") -> bool:
        """Say whether it is no slower, takes no more multiply-adds, and is less accurate by no more than chance explains."""
        is_cheaper = (
            self.latency_s <= other.latency_s and self.candidate.macs <= other.candidate.macs
        )
        return is_cheaper and not is_worse(self.right, other.right, LUCK)

    @property
    def figures(self) -> str:
        """What it achieves, in words."""
        return f"{self.accuracy:.2%} in {1e3 * self.latency_s:.2f} ms"


def measure(candidates: Sequence[Candidate], images: MeasuredImages) -> list[Measured]:
    """Measure accuracy and latency of all candidates; every image is decoded once.

    Raises:
        TrainingError: a network gives no finite answers.
    """
    graphs = [path for each in candidates for path in (each.graph, each.int8) if path]
    logits = logits_of_each(graphs, images, what="measuring")
    latency_s = _latencies(graphs, images.some(1))
    measured = []
    for each in candidates:
        own = logits[each.graph]
        if not np.isfinite(own).all():
            raise TrainingError(
                f"{each.name}: its answers to some of the images are not finite numbers"
            )
        right, seen_s, in_int8 = own.argmax(1) == images.labels, latency_s[each.graph], None
        if each.int8:
            in_int8 = logits[each.int8]
            if not is_worse(in_int8.argmax(1) == images.labels, right):
                seen_s = min(seen_s, latency_s[each.int8])
        measured.append(Measured(each, own, in_int8, right, seen_s))
    return measured


def front(
    measured: Sequence[Measured], report: Report, *, keep: Collection[str] = ()
) -> list[Measured]:
    """Return those that none beats of those kept, the fastest first, and say what beats the others.

    Args:
        keep: the names of those that are kept whatever beats them.
    """
    kept: list[Measured] = []
    left_out = []
    for each in sorted(measured, key=lambda each: each.latency_s):
        better = [other for other in kept if other.beats(each)]
        if better and each.candidate.name not in keep:
            best = max(better, key=lambda other: other.accuracy)
            left_out.append(each.candidate.name)
            report(
                f"{each.candidate.name} is left out, beaten by {best.candidate.name}: {each.figures} against {best.figures}"
            )
        else:
            kept.append(each)
    if left_out:
        report(f"to have them all the same, import with --keep {','.join(left_out)}")
    return kept


def doubt(measured: Measured, classes: int, report: Report) -> None:
    """Warn of a network that is no better than guessing."""
    chance = 1 / classes
    error = (chance * (1 - chance) / len(measured.logits)) ** 0.5
    if measured.accuracy < chance + SURE * error:
        report(
            f"warning: {measured.candidate.name} is right on {measured.accuracy:.2%} of the images, hardly better than "
            "guessing; are --mean, --std and the order of the labels those of its training?"
        )


def logits_of_each(
    graphs: Iterable[Path], images: MeasuredImages, *, what: str
) -> dict[Path, Logits]:
    """Return the logits that each graph gives for the images, all from one pass over them."""
    sessions = {path: open_session(path, threads=cores()) for path in graphs}
    parts: dict[Path, list[Logits]] = {path: [] for path in sessions}
    with tqdm(total=len(images.labels), desc=what, unit=" images", disable=None) as bar:
        for batch in images.batches():
            for path, session in sessions.items():
                parts[path].append(session.run(["logits"], {"images": batch})[0])
            bar.update(len(batch))
    return {path: np.concatenate(own) for path, own in parts.items()}


def _latencies(graphs: Iterable[Path], image: NDArray[np.uint8]) -> dict[Path, float]:
    """Return the median run latency of one image in seconds, of each graph; all are timed by turns."""
    sessions = {path: open_session(path, threads=cores()) for path in graphs}
    seen_s: dict[Path, list[float]] = {path: [] for path in sessions}
    began_at = perf_counter()
    for turn in range(1 + LATENCY_ROUNDS):
        for path, session in sessions.items():
            started_at = perf_counter()
            session.run(["probabilities"], {"images": image})
            if turn:  # the first allocates
                seen_s[path].append(perf_counter() - started_at)
        if turn and perf_counter() - began_at > LATENCY_S:
            break
    return {path: median(own) for path, own in seen_s.items()}
