"""Which requests a load has, when each is due, and the images that they send."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.load.recording import Planned
from benchmarks.load.workloads import arrival_times, deadlines

MOST_REQUESTS = 1_500_000
LONGEST_S = 300.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the load: so many requests a second for so long."""

    rate: float
    seconds: float


def plan(
    phases: Sequence[Phase],
    *,
    arrivals: str,
    deadlines_s: Sequence[float],
    images: int,
    seed: int,
    turns: int = 1,
) -> list[Planned]:
    """Return every request of a load, in order; equal arguments give equal requests.

    Args:
        phases: one after another.
        arrivals: of what kind, see ``workloads``.
        deadlines_s: each as likely.
        images: how many there are to choose from.
        seed: of everything random.
        turns: so many phases after each other are alike, but for their rates: of one rate they have the same images at the same instants.

    Raises:
        ValueError: the load is longer or larger than a benchmark should be, or a phase gets no request.
    """
    if sum(phase.seconds for phase in phases) > LONGEST_S:
        raise ValueError(f"a load may last {LONGEST_S:g} s at most")
    if sum(phase.rate * phase.seconds for phase in phases) > MOST_REQUESTS:
        raise ValueError(f"a load may have {MOST_REQUESTS} requests at most")
    planned: list[Planned] = []
    begin_at = 0.0
    for index, phase in enumerate(phases):
        own_seed = seed + index // turns
        rng = Random(f"images {own_seed}")  # apart from the generators of the instants
        # More than the mean, for bursts; those past the end of the phase are left out.
        count = int(2 * phase.rate * phase.seconds) + 100
        times = arrival_times(arrivals, rate=phase.rate, count=count, seed=own_seed)
        times = times[times < phase.seconds]
        if not len(times):
            raise ValueError(f"no request falls into {phase.seconds:g} s at {phase.rate:g}/s")
        due_s = deadlines(deadlines_s, count=len(times), seed=own_seed)
        planned += [
            Planned(begin_at + at, deadline_s, rng.randrange(images), index)
            for at, deadline_s in zip(times.tolist(), due_s, strict=True)
        ]
        begin_at += phase.seconds
    return planned


def read_images(
    folder: Path, classes: Sequence[str], *, count: int, seed: int
) -> tuple[list[bytes], list[int]]:
    """Return the files and classes of some of the JPEG images in a folder of class folders.

    Raises:
        ValueError: there are none, or they have another class than the bundle knows.
    """
    paths = sorted(folder.glob("*/*.jp*g"))
    if not paths:
        raise ValueError(f"{folder}: has no <class>/*.jpg")
    chosen = Random(f"files {seed}").sample(paths, min(count, len(paths)))
    unknown = {path.parent.name for path in chosen} - set(classes)
    if unknown:
        raise ValueError(f"{folder}: the bundle knows no class {', '.join(sorted(unknown))}")
    class_ids = {name: index for index, name in enumerate(classes)}
    return [path.read_bytes() for path in chosen], [class_ids[path.parent.name] for path in chosen]
