"""``python -m benchmarks.load``: a load generator, in a process and on a core of its own; its report is JSON.

Requests leave when a seeded schedule says so, whatever the server does, and latency counts from that instant: a slow
server cannot hide its queue. What they post are real labelled images, so that the answers in time can be marked.
"""

import argparse
import gc
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.load.dialects import DIALECTS
from benchmarks.load.planning import Phase, plan, read_images
from benchmarks.load.recording import Planned, Record, summarise
from benchmarks.load.wire import send_in_turn, send_when_due
from benchmarks.load.workloads import ARRIVALS
from model.bundle import BundleError, read_bundle

IMAGES = 2000  # so many different ones are sent


def main() -> int:
    """Send a load and print what became of it, one entry a phase; a closed loop is one phase."""
    options = _parser().parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    dialect = DIALECTS[options.dialect]
    dialects = [
        replace(dialect, path=f"{dialect.path}&{query}") if query else dialect
        for query in options.query
    ]
    deadlines_s = [deadline_ms / 1e3 for deadline_ms in options.deadline_ms]
    try:
        classes = read_bundle(options.bundle).manifest.labels
        images, labels = read_images(options.images, classes, count=IMAGES, seed=0)
        # Of a closed loop the instants do not count, only that there are enough.
        phases = [Phase(2.0 * options.in_turn, 1.0)] if options.in_turn else options.phase
        planned = plan(
            phases,
            arrivals=options.arrivals,
            deadlines_s=deadlines_s,
            images=len(images),
            seed=options.seed,
            turns=len(dialects),
        )[: options.in_turn]
    except (ValueError, BundleError) as error:
        sys.stderr.write(f"load: {error}\n")
        return 2
    asked = [(each.phase % len(dialects), each.deadline_s, each.image) for each in planned]
    wires = {(q, d, i): dialects[q].request(images[i], d) for q, d, i in set(asked)}
    requests = [wires[each] for each in asked]
    gc.disable()  # a collection would stall the generator for longer than a deadline
    to = {"port": options.port, "connections": options.connections}
    if options.in_turn:
        records = send_in_turn(requests, **to)
    else:
        records = send_when_due(planned, requests, **to)
    rows: list[list[tuple[Planned, Record]]] = [[] for _ in phases]
    for row in zip(planned, records, strict=True):
        rows[row[0].phase].append(row)
    print(json.dumps([summarise(each, labels=labels, read=dialect.read) for each in rows]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="of a server on this machine")
    parser.add_argument("--dialect", choices=DIALECTS, default="anytime", help="of the server")
    parser.add_argument(
        "--query",
        nargs="+",
        default=[""],
        help="further parameters, as in a URL; several take turns, a phase each, with the same images",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="gives the names of the classes")
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--phase", type=_phase, action="append", metavar="RATE:SECONDS")
    load.add_argument(
        "--in-turn", type=int, metavar="COUNT", help="a closed loop: as fast as replies come"
    )
    parser.add_argument("--arrivals", choices=ARRIVALS, default="poisson")
    parser.add_argument("--deadline-ms", type=float, nargs="+", default=[25.0])
    parser.add_argument("--connections", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, help="to run on")
    return parser


def _phase(text: str) -> Phase:
    rate, seconds = text.split(":")
    return Phase(float(rate), float(seconds))


if __name__ == "__main__":
    sys.exit(main())
