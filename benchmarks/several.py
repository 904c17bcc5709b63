"""``python -m benchmarks.several``: two models on one server of the whole machine, and on two servers with half of it each.

The two models are one bundle under two names, so that only the load differs: the first is asked for answers within a few
milliseconds and in bursts, the second steadily and with time. One server has as many fronts as it chooses, or two, as two
servers have. All set-ups get the same requests, by turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.documents import percent, spread, table
from benchmarks.servers import ROOT, anytime, running

CORES = 2
CONNECTIONS = 64
WARM_S = 1.0  # of load, which is not counted; bursts are often half a second apart


@dataclass(frozen=True, slots=True)
class Asked:
    """What one model is asked."""

    model: str
    arrivals: str
    rate: float
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class SetUp:
    """Where the models are: on one server or each on its own, with some more settings."""

    name: str
    together: bool
    settings: Mapping[str, str] = field(default_factory=dict)


SET_UPS = (
    SetUp("one server", together=True),
    SetUp("one server, two fronts", together=True, settings={"ANYTIME_FRONTS": "2"}),
    SetUp("two servers", together=False),
)


def load_of(rate: float) -> Sequence[Asked]:
    """Return what the models are asked, each at a mean rate per second."""
    return Asked("bursty", "bursts", rate, 10.0), Asked("steady", "poisson", rate, 50.0)


def serve_and_ask(
    bundle: Path, images: Path, load: Sequence[Asked], set_up: SetUp, *, seconds: float, seed: int
) -> list[dict[str, Any]]:
    """Return what became of the requests for each model."""
    image = next(images.glob("*/*.jp*g")).read_bytes()
    together = set_up.together
    names = [[each.model for each in load]] if together else [[each.model] for each in load]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ports: dict[str, int] = {}
        for place, models in enumerate(names):
            bundles = ",".join(f"{name}={bundle}" for name in models)
            settings = {"ANYTIME_BUNDLES": bundles, "ANYTIME_AGREEMENT_SAMPLE": "0"}
            settings |= set_up.settings
            system = replace(anytime(bundle, "anytime", settings=settings), name="+".join(models))
            cores = f"0-{CORES - 1}" if together else str(place)
            log = Path(folder, f"{place}.log")
            server = stack.enter_context(running(system, core=cores, image=image, log=log))
            ports |= dict.fromkeys(models, server.port)
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
    """Measure all set-ups by turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "model/pretrained/cifar10")
    parser.add_argument("--images", type=Path, required=True, help="folder of <class>/*.jpg")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[300.0, 600.0], help="of each model, per second"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, a point and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if (os.cpu_count() or 1) < CORES:
        parser.error(f"this takes {CORES} cores")
    bundle, images = options.bundle.resolve(), options.images.resolve()
    rows = []
    for rate in options.rates:
        load = load_of(rate)
        found: dict[str, list[list[dict[str, Any]]]] = {each.name: [] for each in SET_UPS}
        for seed in options.seeds:
            for set_up in SET_UPS:
                found[set_up.name].append(
                    serve_and_ask(bundle, images, load, set_up, seconds=options.seconds, seed=seed)
                )
        for place, asked in enumerate(load):
            for name, runs in found.items():
                of = [run[place] for run in runs]
                rows.append(
                    [
                        f"{asked.rate:g}/s {asked.arrivals}, {asked.deadline_ms:g} ms",
                        name,
                        spread([each["in_time"] for each in of], percent),
                        spread([each["correct_in_time"] for each in of], percent),
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
    print(table(["asked of a model", "set-up", "in time", "correct in time"], rows))


if __name__ == "__main__":
    main()
