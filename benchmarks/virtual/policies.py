"""Policies against each other and against the bound, in virtual time: the tables and plot of docs/scheduling.md.

python -m benchmarks.virtual.policies [--docs docs] [--seed 1] [--requests 6000] [--max-queue 1024]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.documents import write_section
from benchmarks.load.workloads import ARRIVALS, MIXES_S
from benchmarks.virtual.bound import upper_bound
from benchmarks.virtual.cases import BASIC, EXTRA, Case, Play
from service.scheduling.latency import LatencyModel

LOADS = (0.1, 0.4, 0.8, 1.2, 3.0)  # of the capacity of the fastest subnetwork
WIDEST_GAP = 0.01  # of the bound, from which on the gap closed means something
CASES = BASIC + EXTRA


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


def measure(play: Play, *, max_queue: int | None) -> Point:
    """Run every policy on one workload; without a limit the queue takes all of it."""
    case, table, windows = play.case, play.table, play.windows()
    bound = upper_bound(
        windows,
        table.candidates(),
        LatencyModel(table.profile()).profile_s,
        max_batch=table.max_batch,
        devices=case.devices,
        overhead_s=case.overhead_s,
        work_at=play.machine(windows[-1][0]).work_by,
    )

    def correct(policy: str) -> tuple[float, float]:
        tally = play.run(policy, max_queue=max_queue)
        return tally.correct(table.accuracy()) / play.requests, tally.attainment

    ours, in_time = correct("anytime")
    return Point(
        play.load,
        bound / play.requests,
        ours,
        in_time,
        correct("slackfit")[0],
        max(correct(f"static:{each.name}")[0] for each in table.candidates()),
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
    figure.supxlabel("load, of the capacity of the fastest subnetwork")
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
            measure(Play(case, load, options.requests, options.seed), max_queue=options.max_queue)
            for load in LOADS
        ]
        print(table_of(case, found[case]) + "\n", flush=True)
    if options.docs:
        tables = "\n\n".join(table_of(case, points) for case, points in found.items())
        write_section(options.docs / "scheduling.md", "policies", tables)
        draw(found, options.docs / "plots" / "policies.png")


if __name__ == "__main__":
    main()
