"""``python -m benchmarks.serve``: measure the real server, alone and beside others, and write the tables and plots.

The server runs on one core and the load generator on another. Nothing else should run on the machine. The parts, in
order: the floor (a bare handler), deadlines without load, capacity, a long overload, both values of ``on_miss`` by
turns at 1,200 to 5,000 requests a second, the peers, and rounds of a sweep over the rates for as long as the budget lasts.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.conditions import describe_conditions
from benchmarks.serve.report import publish, write_modes
from benchmarks.serve.session import COLLAPSED, Session
from benchmarks.servers import (
    PEER_DIALECTS,
    ROOT,
    Server,
    ServerFailed,
    System,
    anytime,
    bare,
    peer,
)
from model.bundle import read_bundle

PARTS = ("floor", "deadlines", "capacity", "overload", "modes", "peers", "sweep")
RATES = (50, 100, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 6000, 10000)
MODES = ("answer", "refuse")  # of on_miss
MODE_RATES = (1200, 1600, 2000, 3000, 5000)
MODE_CONNECTIONS = (64, 512, 3000)
MODE_PAIRS = 20
MODE_TURN_S = 0.5
MODE_LOADS = 4  # at most, of a point
IN_TIME = 0.99  # of all requests offered: the server holds the rate
ROUNDS = 5  # more would only take time
FLOOR_ROUNDS = 7
ALONE, SATURATING, IN_TURN = 300, 1500, 1000  # requests of a closed loop


def measure_floor(session: Session) -> None:
    """Compare ``/classify`` on the shallowest subnetwork with a bare handler, both asked by turns."""
    name = session.shallowest
    systems = (
        anytime(session.bundle.folder, f"static:{name}"),
        bare(session.graph(name)),
    )
    alone: dict[str, list[float]] = {}
    saturated: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(session.serving(system)) for system in systems]
        for seed in range(FLOOR_ROUNDS):
            for server in servers:
                common = ("--seed", seed, "--deadline-ms", 2000)
                (one,) = session.measure(server, "--in-turn", ALONE, "--connections", 1, *common)
                (many,) = session.measure(
                    server, "--in-turn", SATURATING, "--connections", 16, *common
                )
                alone.setdefault(server.system.name, []).append(one["answered_ms"]["p50"])
                saturated.setdefault(server.system.name, []).append(many["answers_per_s"])
    session.found["floor"] = {"p50_ms": alone, "per_s": saturated}


def measure_deadlines(session: Session) -> None:
    """Ask one after the other, each with a deadline."""
    with session.serving(anytime(session.bundle.folder, "anytime")) as server:
        for deadline_ms in (5, 10, 25):
            arguments = ("--in-turn", IN_TURN, "--connections", 1, "--deadline-ms", deadline_ms)
            (figures,) = session.measure(server, *arguments)
            session.found.setdefault("deadlines", []).append(
                {"deadline_ms": deadline_ms, **figures}
            )


def measure_capacity(session: Session) -> None:
    """Find the highest rate that the shallowest subnetwork alone holds, to 5 %; then ask ours for 85 % of it."""
    with session.serving(anytime(session.bundle.folder, f"static:{session.shallowest}")) as server:

        def holds(rate: float) -> bool:
            # Twice, since one stall of the machine fails a rate that the server holds.
            points = (session.point(server, rate, seed) for seed in range(2))
            return any(point is not None and point["in_time"] >= IN_TIME for point in points)

        low, high = 200.0, 400.0
        while high < RATES[-1] and holds(high):
            low, high = high, 1.5 * high
        while high > 1.05 * low:
            middle = round((low * high) ** 0.5)
            low, high = (middle, high) if holds(middle) else (low, middle)
    session.found["capacity_per_s"] = low
    with session.serving(anytime(session.bundle.folder, "anytime")) as server:
        points = [session.point(server, round(0.85 * low), seed) for seed in range(3)]
        session.found["at_85"] = [point for point in points if point is not None]


def measure_overload(session: Session, seconds: float) -> None:
    """Offer ten times the capacity; watch the memory, the requests admitted, and how soon all is well again."""
    rate = 10 * session.found["capacity_per_s"]
    phases = ("--phase", "200:2", "--phase", f"{rate}:{seconds}", "--phase", "200:5")
    with session.serving(anytime(session.bundle.folder, "anytime")) as server:
        load = session.load(server, *phases, "--deadline-ms", session.deadline_ms)
        memory_mib = []
        while load.poll() is None:
            memory_mib.append(round(server.memory_mib(), 1))
            time.sleep(1.0)
        assert load.stdout is not None
        before, during, after = json.loads(load.stdout.read())
    session.found["overload"] = {
        "rate": rate,
        "seconds": seconds,
        "memory_mib": memory_mib,
        "before": before,
        "during": during,
        "after": after,
    }


def measure_modes(session: Session) -> None:
    """Compare the values of ``on_miss`` by turns on one server, with few connections and with many.

    A point of whose pairs the generator lagged in more than half is measured again.
    """
    points: list[dict[str, Any]] = []
    session.found["modes"] = {"turn_s": MODE_TURN_S, "points": points}
    with session.serving(anytime(session.bundle.folder, "anytime")) as server:
        for connections in MODE_CONNECTIONS:
            for rate in MODE_RATES:
                kept: list[dict[str, Any]] = []
                for _ in range(MODE_LOADS):
                    kept += _take_turns(session, server, connections, rate)
                    if len(kept) >= len(MODES) * MODE_PAIRS / 2:
                        break
                points += [each | {"pair": n // len(MODES)} for n, each in enumerate(kept)]


def _take_turns(
    session: Session, server: Server, connections: int, rate: float
) -> list[dict[str, Any]]:
    """Return the turns of one load, each pair after the other, but those pairs in which the generator lagged."""
    phases = ["--phase", f"{rate}:{MODE_TURN_S}"] * (1 + len(MODES) * MODE_PAIRS)
    common = ("--deadline-ms", session.deadline_ms, "--connections", connections)
    queries = [f"on_miss={mode}" for mode in MODES]
    figures = session.measure(server, *phases, *common, "--query", *queries)
    turns = [
        each | {"rate": rate, "connections": connections, "on_miss": MODES[turn % len(MODES)]}
        for turn, each in enumerate(figures)
    ][1:]  # it settles in the first
    pairs = [turns[n : n + len(MODES)] for n in range(0, len(turns), len(MODES))]
    return [turn for pair in pairs if not any(each["lagging"] for each in pair) for turn in pair]


def sweep(session: Session, systems: Sequence[System], seed: int, part: str) -> None:
    """Measure each system at rising rates until it collapses."""
    points = session.found.setdefault(part, [])
    for system in systems:
        if time.monotonic() > session.end_at:
            return
        print(f"  {system.name}, seed {seed}", flush=True)
        try:
            with session.serving(system) as server:
                for rate in RATES:
                    point = session.point(server, rate, seed)
                    if point is not None:
                        points.append(point | {"memory_mib": round(server.memory_mib())})
                        if point["in_time"] < COLLAPSED:
                            break
        except ServerFailed as error:
            session.found.setdefault("failures", []).append(str(error))
            print(f"  {error}", flush=True)


def main() -> int:
    """Measure, and write what was found."""
    parser = _parser()
    options = parser.parse_args()
    chosen = [name for name in PARTS if name in options.parts]
    if "overload" in chosen and "capacity" not in chosen:
        parser.error("the part overload needs the part capacity: it offers ten times that")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended on the way out
    started_at = time.monotonic()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    session = Session(
        read_bundle(options.bundle),
        options.images.resolve(),
        ROOT / "build" / "peers",
        out,
        options.seconds,
        options.deadline_ms,
        started_at + options.budget_s,
    )
    session.found["conditions"] = describe_conditions(session.bundle) | {
        "seconds": options.seconds,
        "deadline_ms": options.deadline_ms,
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    graphs = [session.graph(name) for name in (session.shallowest, session.deepest)]
    # Their environments are made before anything is measured.
    names = options.peers if "peers" in chosen else ()
    peers = [peer(name, graph, session.environments) for name in names for graph in graphs]
    parts: dict[str, Callable[[], None]] = {
        "floor": lambda: measure_floor(session),
        "deadlines": lambda: measure_deadlines(session),
        "capacity": lambda: measure_capacity(session),
        "overload": lambda: measure_overload(session, options.overload_s),
        "modes": lambda: measure_modes(session),
        "peers": lambda: sweep(session, [*map(bare, graphs), *peers], 0, "peers"),
        "sweep": lambda: _sweep_in_rounds(session),
    }
    for name in chosen:
        print(f"{time.monotonic() - started_at:5.0f} s: {name}", flush=True)
        parts[name]()
        (out / "serving.json").write_text(json.dumps(session.found, indent=1))
    if "modes" in chosen:
        write_modes(session.found, ROOT / "docs")
    if chosen == list(PARTS):
        publish(session.found, ROOT / "docs")
    else:
        print(
            f"what was found is in {out / 'serving.json'}; but for modes, only a whole measurement is published"
        )
    return 0


def _sweep_in_rounds(session: Session) -> None:
    for seed in range(ROUNDS):
        if seed and time.monotonic() > session.end_at:
            return
        systems = [anytime(session.bundle.folder, policy) for policy in session.policies]
        sweep(session, systems, seed, "sweep")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument("--budget-s", type=float, default=1200.0, help="no part begins after it")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a point")
    parser.add_argument("--deadline-ms", type=float, default=25.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--overload-s", type=float, default=60.0)
    parser.add_argument("--peers", nargs="*", choices=PEER_DIALECTS, default=list(PEER_DIALECTS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
