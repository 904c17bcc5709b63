"""``python -m benchmarks.serve``: measure the real server, alone and beside others, and write the tables and plots.

The server runs on one core and the load generator on another. Nothing else should run on the machine. The parts, in
order: the floor (a bare handler), the same on one core and on two, deadlines without load, capacity, a long overload, both
values of ``on_miss`` by turns past the peak, the free choice by turns with each subnetwork over the rates, and the peers.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.conditions import describe_conditions
from benchmarks.load.planning import MOST_REQUESTS
from benchmarks.serve.report import publish, write_modes
from benchmarks.serve.session import COLLAPSED, TURN_S, Session
from benchmarks.serve.two_cores import measure_two_cores
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

PARTS = ("floor", "two-cores", "deadlines", "capacity", "overload", "modes", "sweep", "peers")
RATES = (50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 6000, 10000)
SWEEP_ROUNDS = 8
MODES = ("answer", "refuse")  # of on_miss
MODE_CONNECTIONS = (64, 512, 3000)
MODE_ROUNDS = 8
PAST_PEAK = (1.5, 2, 3, 5, 10)  # times the rate at which most is answered in time
PEAK_ROUNDS = 6
PEAK_FROM, PEAK_STEP = 200.0, 1.25  # requests a second
AT_IT = 0.95  # of the most that is answered in time: so much is the peak
PAST_IT = 0.8  # a rate at which so little is left lies past it
IN_TIME = 0.99  # of all requests offered: the server holds the rate
LAGGED = "the generator lagged in every round"
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
        session.found["resident_mib"] = server.memory_by_name("Rss")


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
    seconds = min(seconds, float(MOST_REQUESTS // (1.1 * rate)))  # what one load may hold
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
    """Compare the values of ``on_miss`` past the peak, with few connections and with many.

    A turn at the rate of the peak stands beside each pair, so that what is left of it is known in spite of a machine
    whose speed changes.
    """
    with session.serving(anytime(session.bundle.folder, "anytime")) as server:
        peak = _find_peak(session, server)
        points: list[dict[str, Any]] = []
        session.found["modes"] = {"turn_s": TURN_S, "peak_per_s": peak, "points": points}
        queries = [f"on_miss={mode}" for mode in (MODES[0], *MODES)]
        for connections in MODE_CONNECTIONS:
            for times in PAST_PEAK:
                print(f"  {connections} connections, {times:g} times the peak", flush=True)
                rates = (peak, times * peak, times * peak)
                common = {"rounds": MODE_ROUNDS, "connections": connections}
                every = session.turns(server, rates, queries, **common)
                if not every:
                    session.leave_out(
                        f"{connections} connections at {times:g} times the peak: {LAGGED}"
                    )
                points += [
                    each
                    | {"times": times, "connections": connections, "round": number, "mode": mode}
                    for number, turns in enumerate(every)
                    for mode, each in zip(("peak", *MODES), turns, strict=True)
                ]


def _find_peak(session: Session, server: Server) -> float:
    """Return the lowest rate at which about as many requests are answered in time as at any, over 512 connections.

    Past it a server that holds its own answers as many of ever more, so that chance alone would say where most are.
    """
    in_time: dict[float, float] = {}
    rate, n_past = PEAK_FROM, 0
    while rate <= RATES[-1] and n_past < 2:
        every = session.turns(server, [rate], ["on_miss=answer"], rounds=PEAK_ROUNDS)
        if every:
            in_time[rate] = median(each["in_time"] * each["offered"] for (each,) in every)
            n_past = n_past + 1 if in_time[rate] < PAST_IT * max(in_time.values()) else 0
        rate = round(PEAK_STEP * rate)
    most = max(in_time.values(), default=0.0)
    return next((rate for rate, met in in_time.items() if met >= AT_IT * most), PEAK_FROM)


def measure_sweep(session: Session) -> None:
    """Compare the free choice with each subnetwork, by turns with the same images, at rising rates until all collapse."""
    points = session.found.setdefault("sweep", [])
    names = ("anytime", *session.subnetworks)
    queries = ["", *(f"subnetwork={name}" for name in session.subnetworks)]
    with session.serving(anytime(session.bundle.folder, "anytime")) as server:
        for rate in RATES:
            print(f"  {rate}/s", flush=True)
            every = session.turns(server, [rate] * len(queries), queries, rounds=SWEEP_ROUNDS)
            points += [
                each | {"system": name, "rate": rate, "round": number}
                for number, turns in enumerate(every)
                for name, each in zip(names, turns, strict=True)
            ]
            if not every:
                session.leave_out(f"the free choice at {rate}/s: {LAGGED}")
            elif all(turn["in_time"] < COLLAPSED for turns in every for turn in turns):
                break


def measure_peers(session: Session, systems: Sequence[System]) -> None:
    """Measure each of the others at rising rates until it collapses, and before it ours at the same rate."""
    points = session.found.setdefault("peers", [])
    with session.serving(anytime(session.bundle.folder, "anytime")) as ours:
        for system in systems:
            if time.monotonic() > session.end_at:
                session.leave_out(f"{system.name}: no time was left")
                continue
            print(f"  {system.name}", flush=True)
            try:
                with session.serving(system) as server:
                    for seed, rate in enumerate(RATES):
                        own, theirs = (session.point(each, rate, seed) for each in (ours, server))
                        if theirs is None or own is None:
                            continue
                        theirs["memory_mib"] = round(server.memory_mib())
                        points.append(theirs | {"ours": own})
                        if theirs["in_time"] < COLLAPSED:
                            break
            except ServerFailed as error:
                session.leave_out(str(error))


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
    others: list[System] = []
    if "peers" in chosen:
        graphs = [session.graph(name) for name in (session.shallowest, session.deepest)]
        # Their environments are made before anything is measured.
        others += map(bare, graphs)
        others += (
            peer(each, graph, session.environments) for each in options.peers for graph in graphs
        )
    parts: dict[str, Callable[[], None]] = {
        "floor": lambda: measure_floor(session),
        "two-cores": lambda: measure_two_cores(session),
        "deadlines": lambda: measure_deadlines(session),
        "capacity": lambda: measure_capacity(session),
        "overload": lambda: measure_overload(session, options.overload_s),
        "modes": lambda: measure_modes(session),
        "sweep": lambda: measure_sweep(session),
        "peers": lambda: measure_peers(session, others),
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument("--budget-s", type=float, default=3600.0, help="no peer begins after it")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a point")
    parser.add_argument("--deadline-ms", type=float, default=25.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--overload-s", type=float, default=60.0)
    parser.add_argument("--peers", nargs="*", choices=PEER_DIALECTS, default=list(PEER_DIALECTS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    return parser


if __name__ == "__main__":
    sys.exit(main())
