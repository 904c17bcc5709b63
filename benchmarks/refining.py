"""``python -m benchmarks.refining``: what early stops save, on the real server with real images.

Test images one after the other, with rising ``stop_at_confidence``, beside every subnetwork alone; and both under a load
that the full network cannot carry. Nothing else should run on the machine. Needs two cores.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.conditions import describe_conditions
from benchmarks.documents import DOCS, percent, table, write_section
from benchmarks.servers import ROOT, Server, ServerFailed, System, anytime, running
from model.bundle import Bundle, read_bundle

SERVER_CORE, LOAD_CORE = 0, 1
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
IN_TURN = 4000  # requests a point
LOAD_RATE, LOAD_S, LOAD_DEADLINE_MS = 450, 10, 25  # more than the full network can answer
COMMAND = "python -m benchmarks.refining --bundle model/pretrained/cifar10 --images DIR"

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """Where things are."""

    bundle: Bundle
    images: Path

    @contextmanager
    def serving(self, system: System) -> Iterator[Server]:
        """Run a server."""
        image = next(self.images.glob("*/*.jp*g")).read_bytes()
        log = ROOT / "build" / "refining.log"
        log.parent.mkdir(exist_ok=True)
        with running(system, core=SERVER_CORE, image=image, log=log) as server:
            yield server

    def measure(
        self, server: Server, *load: object, query: str = "", deadline_ms: float
    ) -> Figures:
        """Return the load generator's figures of its last phase."""
        words = ("--query", query, "--deadline-ms", deadline_ms, *load)
        command = server.load_command(self.bundle.folder, self.images, *words, core=LOAD_CORE)
        output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        last: Figures = json.loads(output)[-1]
        return last

    def mmacs(self, figures: Figures, *, first: str | None) -> float:
        """Return the mean multiply-adds of an answer, in millions; ``first`` has run before every other."""
        macs = {each.name: each.macs / 1e6 for each in self.bundle.manifest.subnetworks}
        paid = sum(
            count * (macs[name] + (macs[first] if first and name != first else 0.0))
            for name, count in figures["subnetworks"].items()
        )
        return float(paid / sum(figures["subnetworks"].values()))


def measure_stops(session: Session) -> dict[str, Any]:
    """Measure every subnetwork alone and every threshold, with all the time there is; then some under load."""
    names = [each.name for each in session.bundle.manifest.subnetworks]
    first = min(session.bundle.manifest.subnetworks, key=lambda each: each.macs).name
    alone, stops, loaded = {}, {}, {}
    in_turn = ("--in-turn", IN_TURN, "--connections", 1)
    with session.serving(anytime(session.bundle.folder, "anytime")) as server:
        for name in names:
            figures = session.measure(
                server, *in_turn, query=f"subnetwork={name}", deadline_ms=1000
            )
            alone[name] = {**figures, "mmacs": session.mmacs(figures, first=None)}
        for stop in THRESHOLDS:
            figures = session.measure(
                server, *in_turn, query=f"stop_at_confidence={stop}", deadline_ms=1000
            )
            stops[str(stop)] = {**figures, "mmacs": session.mmacs(figures, first=first)}
        phases = ("--phase", f"{LOAD_RATE}:2", "--phase", f"{LOAD_RATE}:{LOAD_S}")
        for query in ("", *(f"stop_at_confidence={stop}" for stop in THRESHOLDS)):
            loaded[query] = session.measure(
                server, *phases, query=query, deadline_ms=LOAD_DEADLINE_MS
            )
    return {"alone": alone, "stops": stops, "loaded": loaded}


def publish(found: Figures, docs: Path) -> None:
    """Write the section about refining, and its plot."""
    _draw(found, docs / "plots" / "refining.png")
    conditions = found["conditions"]
    parts = [
        "## Early stops",
        f"`{COMMAND}` on {conditions['machine']}, commit {conditions['commit']}, {conditions['started']}. Bundle "
        f"`{conditions['bundle']}` ({conditions['digest']}).",
        f"{IN_TURN} requests of test images one after the other, deadline 1 s, server on one core: with "
        "`stop_at_confidence` the fastest subnetwork answers first, and the full network only those of which it is less "
        "sure. Latency is the client's.",
        table(
            ["", "accuracy", "mean MMACs", "p50 (ms)", "p99 (ms)"],
            [
                *([name, *_cells(point)] for name, point in found["stops"]["alone"].items()),
                *([f"stop at {stop}", *_cells(p)] for stop, p in found["stops"]["stops"].items()),
            ],
        ),
        "![accuracy against multiply-adds and latency](plots/refining.png)",
        f"The same under a load of {LOAD_RATE}/s, Poisson, deadline {LOAD_DEADLINE_MS} ms, {LOAD_S} s a point:",
        table(
            ["", "in time", "accuracy", "correct in time"],
            [
                [
                    query.replace("stop_at_confidence=", "stop at ") or "no early stop",
                    *(percent(point[key]) for key in ("in_time", "accuracy", "correct_in_time")),
                ]
                for query, point in found["stops"]["loaded"].items()
            ],
        ),
    ]
    write_section(docs / "results.md", "refining", "\n\n".join(parts))


def _cells(point: Figures) -> Sequence[str]:
    quantiles = point["answered_ms"]
    return (
        percent(point["accuracy"]),
        f"{point['mmacs']:.1f}",
        f"{quantiles['p50']:.2f}",
        f"{quantiles['p99']:.2f}",
    )


def _draw(found: Figures, path: Path) -> None:
    """Plot accuracy against mean multiply-adds and mean latency."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_macs, by_latency = figure.subplots(1, 2, sharey=True)
    alone, stops = found["stops"]["alone"], found["stops"]["stops"]
    for axes, key in ((by_macs, "mmacs"), (by_latency, "mean_ms")):
        for name, point in alone.items():
            at = (_cost(point, key), 100 * point["accuracy"])
            axes.plot(*at, "o", color="black", markersize=4)
            axes.annotate(name, at, fontsize=7)
        costs = [_cost(point, key) for point in stops.values()]
        accuracies = [100 * point["accuracy"] for point in stops.values()]
        axes.plot(costs, accuracies, marker=".", label="stop_at_confidence")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    by_macs.set(xlabel="mean MMACs of an answer")
    by_latency.set(xlabel="mean latency of an answer, ms")
    by_macs.set(ylabel="accuracy on test images, %")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def _cost(point: Figures, key: str) -> float:
    """Return the mean multiply-adds, or the mean latency, of an answer."""
    return float(point["answered_ms"]["mean"] if key == "mean_ms" else point[key])


def main() -> int:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refining",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended on the way out
    session = Session(read_bundle(options.bundle), options.images.resolve())
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    try:
        found = {
            "conditions": describe_conditions(session.bundle) | {"started": started},
            "stops": measure_stops(session),
        }
    except ServerFailed as error:
        print(error, file=sys.stderr)
        return 1
    publish(found, options.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
