"""``python -m benchmarks.several``: two models on one server of the whole machine, and on two servers with half of it each.

The two models are one bundle under two names, so that only the load differs: the first is asked for answers within a few
milliseconds and in bursts, the second steadily and with time. Both set-ups get the same requests, by turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.documents import percent, spread, table
from benchmarks.servers import ROOT, anytime, running

CORES = 2
PORTS = (8731, 8732)
CONNECTIONS = 64
WARM_S = 0.5  # of load, which is not counted


@dataclass(frozen=True, slots=True)
class Asked:
    """What one model is asked."""

    model: str
    arrivals: str
    rate: float
    deadline_ms: float


LOADS = {
    "half": (Asked("bursty", "bursts", 300, 10.0), Asked("steady", "poisson", 300, 50.0)),
    "full": (Asked("bursty", "bursts", 600, 10.0), Asked("steady", "poisson", 600, 50.0)),
}


def serve_and_ask(
    bundle: Path, images: Path, load: Sequence[Asked], *, seconds: float, seed: int, together: bool
) -> list[dict[str, Any]]:
    """Return what became of the requests for each model."""
    image = next(images.glob("*/*.jp*g")).read_bytes()
    names = [[each.model for each in load]] if together else [[each.model] for each in load]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ports: dict[str, int] = {}
        for place, models in enumerate(names):
            bundles = ",".join(f"{name}={bundle}" for name in models)
            settings = {"ANYTIME_BUNDLES": bundles, "ANYTIME_AGREEMENT_SAMPLE": "0"}
            system = replace(anytime(bundle, "anytime", settings=settings), name="+".join(models))
            cores = f"0-{CORES - 1}" if together else str(place)
            log = Path(folder, f"{place}.log")
            stack.enter_context(
                running(system, core=cores, port=PORTS[place], image=image, log=log)
            )
            ports |= dict.fromkeys(models, PORTS[place])
        senders = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.load", "--port", str(ports[each.model])),
                    *("--bundle", bundle, "--images", images, "--seed", str(seed)),
                    *("--query", f"model={each.model}", "--arrivals", each.arrivals),
                    *("--phase", f"{each.rate}:{WARM_S}", "--phase", f"{each.rate}:{seconds}"),
                    *("--deadline-ms", str(each.deadline_ms), "--connections", str(CONNECTIONS)),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            for each in load
        ]
        replies = [sender.communicate()[0] for sender in senders]
    return [json.loads(reply)[1] for reply in replies]


def main() -> None:
    """Measure both set-ups by turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "model/pretrained/cifar10")
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument("--load", choices=LOADS, nargs="+", default=list(LOADS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, a point and seed")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if (os.cpu_count() or 1) < CORES:
        parser.error(f"this takes {CORES} cores")
    rows = []
    for name in options.load:
        load = LOADS[name]
        found: dict[bool, list[list[dict[str, Any]]]] = {True: [], False: []}
        for seed in range(options.seeds):
            for together in (True, False):
                found[together].append(
                    serve_and_ask(
                        options.bundle.resolve(),
                        options.images.resolve(),
                        load,
                        seconds=options.seconds,
                        seed=seed,
                        together=together,
                    )
                )
        for place, asked in enumerate(load):
            for together, runs in found.items():
                of = [run[place] for run in runs]
                rows.append(
                    [
                        f"{asked.rate:g}/s {asked.arrivals}, {asked.deadline_ms:g} ms",
                        "one server" if together else "two servers",
                        spread([each["in_time"] for each in of], percent),
                        spread([each["correct_in_time"] for each in of], percent),
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
    print(table(["asked of a model", "set-up", "in time", "correct in time"], rows))


if __name__ == "__main__":
    main()
