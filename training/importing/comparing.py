"""Networks side by side on the same images and this machine: who is beaten by whom."""

from collections.abc import Callable, Iterable, Sequence
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
from training.graphs.scores import Logits, share
from training.importing.images import LabelledImages

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
    """

    name: str
    graph: Path
    macs: int
    parameters: int
    source: Source | None = None
    known: Subnetwork | None = None
    int8: Path | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate on the validation images and on this machine.

    Attributes:
        logits: of the images.
        accuracy: on them.
        latency_s: of a run with one image, in the faster precision.
    """

    candidate: Candidate
    logits: Logits
    accuracy: float
    latency_s: float

    def beats(self, other: "Measured") -> bool:
        """Say whether it is as accurate, takes no more multiply-adds, and is faster."""
        is_as_accurate = self.accuracy >= other.accuracy
        is_as_cheap = self.candidate.macs <= other.candidate.macs
        return is_as_accurate and is_as_cheap and self.latency_s < other.latency_s

    @property
    def figures(self) -> str:
        """What it achieves, in words."""
        return f"{self.accuracy:.2%} in {1e3 * self.latency_s:.2f} ms"


def measure(candidates: Sequence[Candidate], images: LabelledImages) -> list[Measured]:
    """Measure accuracy and latency of all candidates; every image is decoded once.

    Raises:
        TrainingError: a network gives no finite answers.
    """
    logits = logits_of_each([each.graph for each in candidates], images, what="measuring")
    latency_s = _latencies(candidates, images.some(1))
    for each in candidates:
        if not np.isfinite(logits[each.graph]).all():
            raise TrainingError(
                f"{each.name}: its answers to some of the images are not finite numbers"
            )
    return [
        Measured(
            each,
            logits[each.graph],
            share(logits[each.graph], images.labels).value,
            latency_s[each.name],
        )
        for each in candidates
    ]


def front(measured: Sequence[Measured], report: Report) -> list[Measured]:
    """Return those that none beats, and say what beats the others."""
    kept = []
    for each in measured:
        better = [other for other in measured if other.beats(each)]
        if better:
            best = max(better, key=lambda other: other.accuracy)
            names = each.candidate.name, best.candidate.name
            report(
                f"{names[0]} is left out, beaten by {names[1]}: {each.figures} against {best.figures}"
            )
        else:
            kept.append(each)
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
    graphs: Iterable[Path], images: LabelledImages, *, what: str
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


def _latencies(candidates: Sequence[Candidate], image: NDArray[np.uint8]) -> dict[str, float]:
    """Return the median run latency of one image in seconds, of the faster precision; all are timed by turns."""
    sessions = {
        path: open_session(path, threads=cores())
        for each in candidates
        for path in (each.graph, each.int8)
        if path
    }
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
    return {
        each.name: min(median(seen_s[path]) for path in (each.graph, each.int8) if path)
        for each in candidates
    }
