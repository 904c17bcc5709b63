"""Policies against each other and against the bound, in virtual time: the tables and plot of docs/scheduling.md.

python -m benchmarks.policies [--docs docs] [--seed 1] [--requests 6000] [--max-queue 1024]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from matplotlib.figure import Figure

from benchmarks.bound import upper_bound
from benchmarks.documents import write_section
from benchmarks.workloads import ARRIVALS, MIXES_S, arrival_times, deadlines
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Candidate
from service.scheduling.requests import Request
from service.scheduling.scheduler import Scheduler
from service.scheduling.simulator import Machine, simulate

LOADS = (0.1, 0.4, 0.8, 1.2, 3.0)  # of the capacity of the shallowest subnetwork
NOISE_CV = 0.1  # coefficient of variation of run latencies
WIDEST_GAP = 0.01  # of the bound, from which on the gap closed means something


@dataclass(frozen=True, slots=True)
class Table:
    """Accuracy and run latency of each subnetwork: ``first_ms + more_ms · (batch size - 1)``."""

    max_batch: int
    rows: Mapping[str, tuple[float, float, float]]  # accuracy, first_ms, more_ms

    def candidates(self) -> list[Candidate]:
        """Return what a scheduler chooses from."""
        return [Candidate(name, accuracy) for name, (accuracy, _, _) in self.rows.items()]

    def profile(self) -> dict[str, dict[int, float]]:
        """Return run latencies in seconds by subnetwork and batch size."""
        return {
            name: {
                size: (first_ms + more_ms * (size - 1)) / 1000
                for size in range(1, self.max_batch + 1)
            }
            for name, (_, first_ms, more_ms) in self.rows.items()
        }


TABLES = {
    "no batching": Table(
        16,
        {
            "column-1": (0.83, 0.10, 0.10),
            "column-2": (0.89, 0.29, 0.29),
            "column-3": (0.915, 0.64, 0.64),
            "column-4": (0.925, 1.45, 1.45),
            "full": (0.935, 2.6, 2.6),
        },
    ),
    "CPU core": Table(  # of the narrow network with four columns; batches save a fifth
        16,
        {
            "column-1": (0.77, 0.07, 0.056),
            "column-2": (0.80, 0.29, 0.232),
            "columns-1-2": (0.81, 0.41, 0.328),
            "column-3": (0.812, 0.64, 0.512),
            "columns-1-2-3": (0.822, 1.10, 0.88),
            "full": (0.83, 2.7, 2.16),
        },
    ),
    "GPU": Table(  # of no machine in particular; a batch of 32 costs a tenth of 32 runs
        32,
        {
            "column-1": (0.83, 0.66, 0.06),
            "column-2": (0.89, 1.02, 0.12),
            "column-3": (0.915, 1.72, 0.22),
            "column-4": (0.925, 3.10, 0.40),
            "full": (0.935, 3.75, 0.55),
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A workload on a machine."""

    table: str
    arrivals: str
    mix: str
    devices: int = 1
    overhead_s: float = 0.0
    slows_down: bool = False

    def __str__(self) -> str:
        """Return its name in tables."""
        extras = [f"{self.devices} devices"] * (self.devices > 1)
        extras += [f"{self.overhead_s * 1000:g} ms outside each run"] * (self.overhead_s > 0)
        extras += ["half as fast for a fifth of the time"] * self.slows_down
        return ", ".join([self.table, self.arrivals, self.mix, *extras])


CASES = (
    *(Case(table, kind, mix) for table in TABLES for kind in ARRIVALS for mix in MIXES_S),
    Case("CPU core", "poisson", "25 ms", devices=2),
    Case("GPU", "gamma", "5-100 ms", devices=2),
    Case("CPU core", "poisson", "25 ms", overhead_s=0.0006),
    Case("CPU core", "gamma", "5-100 ms", overhead_s=0.0006),
    Case("CPU core", "poisson", "25 ms", slows_down=True),
    Case("CPU core", "gamma", "5-100 ms", slows_down=True),
)


@dataclass(frozen=True, slots=True)
class Point:
    """What was found at one load: correct answers in time per request."""

    load: float
    bound: float
    anytime: float
    in_time: float
    slackfit: float
    best_static: float

    @property
    def closed(self) -> float | None:
        """The part of the gap between the best static choice and the bound that anytime closes, where there is one."""
        gap = self.bound - self.best_static
        return (self.anytime - self.best_static) / gap if gap > WIDEST_GAP * self.bound else None


def measure(case: Case, load: float, *, requests: int, seed: int, max_queue: int | None) -> Point:
    """Run every policy on one workload; without a limit the queue takes all of it."""
    table = TABLES[case.table]
    candidates, profile = table.candidates(), table.profile()
    truth = LatencyModel(profile)
    fastest = min(
        latency_s / size for curve in profile.values() for size, latency_s in curve.items()
    )
    rate = load * case.devices / (fastest + case.overhead_s)
    times = arrival_times(case.arrivals, rate=rate, count=requests, seed=seed)
    limits_s = deadlines(MIXES_S[case.mix], count=requests, seed=seed)
    windows = [(float(at), float(at) + limit) for at, limit in zip(times, limits_s, strict=True)]
    span_s = windows[-1][0] if case.slows_down else 0.0
    shape = NOISE_CV**-2

    def machine(rng: Random) -> Machine:
        return Machine(
            truth,
            noise=lambda: rng.gammavariate(shape, 1 / shape),
            slow_from=0.4 * span_s,
            slow_until=0.6 * span_s,
            slowdown=2.0,
            overhead_s=case.overhead_s,
        )

    bound = upper_bound(
        windows,
        candidates,
        truth.profile_s,
        max_batch=table.max_batch,
        devices=case.devices,
        overhead_s=case.overhead_s,
        work_at=machine(Random(seed)).work_by,
    )
    accuracy = {each.name: each.accuracy for each in candidates}

    def correct(policy: str) -> tuple[float, float]:
        believed = LatencyModel(profile, devices=case.devices, reserve_s=0.0)
        scheduler = Scheduler(
            candidates,
            believed,
            policy=policy,
            max_queue=max_queue or requests,
            max_batch=table.max_batch,
        )
        offered = [Request(at, due_at) for at, due_at in windows]
        tally = simulate(scheduler, believed, machine(Random(seed)), offered)
        return tally.correct(accuracy) / requests, tally.attainment

    ours, in_time = correct("anytime")
    return Point(
        load,
        bound / requests,
        ours,
        in_time,
        correct("slackfit")[0],
        max(correct(f"static:{each.name}")[0] for each in candidates),
    )


def table_of(case: Case, points: Sequence[Point]) -> str:
    """Return one case as a table in Markdown; policies as parts of the bound."""

    def row(title: str, cells: Sequence[str]) -> str:
        return f"| {title} | " + " | ".join(cells) + " |"

    closed = [point.closed for point in points]
    lines = [
        row(str(case), [f"{point.load:.0%}" for point in points]),
        "|---|" + "---|" * len(points),
        row("bound, correct per request", [f"{point.bound:.3f}" for point in points]),
        row("anytime", [f"**{point.anytime / point.bound:.3f}**" for point in points]),
        row("best static", [f"{point.best_static / point.bound:.3f}" for point in points]),
        row("slackfit", [f"{point.slackfit / point.bound:.3f}" for point in points]),
        row("gap closed", ["–" if part is None else f"{part:.2f}" for part in closed]),
        row("anytime, in time", [f"{point.in_time:.3f}" for point in points]),
    ]
    return "\n".join(lines)


def draw(found: Mapping[Case, Sequence[Point]], path: Path) -> None:
    """Plot the policies as parts of the bound, for each arrival process and mix on the CPU core."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(len(MIXES_S), len(ARRIVALS), sharex=True, sharey=True)
    for line, mix in zip(axes, MIXES_S, strict=True):
        for plot, kind in zip(line, ARRIVALS, strict=True):
            points = found[Case("CPU core", kind, mix)]
            loads = [point.load for point in points]
            for name in ("anytime", "best_static", "slackfit"):
                values = [getattr(point, name) / point.bound for point in points]
                plot.plot(loads, values, marker=".", label=name.replace("_", " "))
            plot.set(xscale="log", ylim=(0.4, 1.02), title=f"{kind}, {mix}")
            plot.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    figure.supxlabel("load, of the capacity of the shallowest subnetwork")
    figure.supylabel("correct in time, of the bound")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure every case; print the tables, or put them in their place in the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, help="the folder whose scheduling.md is to be updated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=6000, help="in each run")
    parser.add_argument("--max-queue", type=int, help="the server's is 1024; no limit unless given")
    options = parser.parse_args()
    found: dict[Case, list[Point]] = {}
    for case in CASES:
        found[case] = [
            measure(
                case,
                load,
                requests=options.requests,
                seed=options.seed,
                max_queue=options.max_queue,
            )
            for load in LOADS
        ]
        print(table_of(case, found[case]) + "\n", flush=True)
    if options.docs:
        tables = "\n\n".join(table_of(case, points) for case, points in found.items())
        write_section(options.docs / "scheduling.md", "policies", tables)
        draw(found, options.docs / "plots" / "policies.png")


if __name__ == "__main__":
    main()
