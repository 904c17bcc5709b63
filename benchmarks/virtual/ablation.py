"""What each rule of the scheduler is worth: it is taken away, and the same requests are served again in virtual time.

python -m benchmarks.virtual.ablation [--docs docs] [--requests 2000] [--seeds 2]
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

from benchmarks.documents import table, write_section
from benchmarks.virtual.cases import (
    BASIC,
    EXTRA,
    PATIENT,
    TABLES,
    Case,
    Play,
    correct_per_request,
)
from service.scheduling import forecast, latency, policies, scheduler
from service.scheduling.admission import Admission
from service.scheduling.forecast import Capacity, Forecast
from service.scheduling.policies import Anytime, Choice, Outlook

LOADS = (0.1, 0.5, 0.9, 1.5)
SPECIAL = (
    *(Case(name, "callers", mix) for name in TABLES for mix in ("25 ms", "5-100 ms")),
    *(Case(name, "poisson", mix, stalls=True) for name in TABLES for mix in ("25 ms", "5-100 ms")),
    *(Case(name, kind, PATIENT) for name in TABLES for kind in ("poisson", "gamma", "callers")),
    *(Case(name, "gamma", "5-100 ms", streams=0.3) for name in TABLES),
    *(Case(name, "poisson", mix, is_slow=True) for name in TABLES for mix in ("25 ms", "5-100 ms")),
)
GROUPS = ("CPU core", "GPU", "patient", "callers", "stalls", "outside", "streams", "slow")

Points = Mapping[tuple[Case, float], float]


def _keep_the_head(self: Anytime, outlook: Outlook) -> Choice:
    fastest = self.options[0]
    most = min(outlook.runnable, fastest.best_size)
    size = self._latency.largest_batch(fastest.name, most, outlook.head_s, outlook.device)
    return Choice(fastest.name, max(size, 1))


RULES: Mapping[str, Sequence[tuple[Any, str, Any]]] = {
    "arrivals that overtake count": [
        (Forecast, "overtaking_s", lambda self, slacks_s: [0.0] * len(slacks_s))
    ],
    "none runs that takes more than steady arrivals leave": [
        (Capacity, "steady_s", lambda self, now: inf)
    ],
    "no run is so long that urgent arrivals are lost": [
        (Capacity, "lost_during", lambda *_, **__: 0.0)
    ],
    "arrivals count that are due after all that wait": [(scheduler, "LOOK_AHEAD", 1.0)],
    "a head that forces small batches is given up": [
        (Anytime, "_choose_overloaded", _keep_the_head)
    ],
    "a batch stops growing at 5 % of gain": [(policies, "EFFICIENT", 1.0)],
    "32 and 64 arrivals prove a rate, and not only 16": [(forecast, "PROOFS", (16,))],
    "a proven rate is that of a short time": [(forecast, "BURST_S", inf)],
    "deadlines that have gone by are no work": [
        (Admission, "_hopeless_at", lambda self, due_at: inf)
    ],
    "the slowdown follows the machine": [
        (latency, "NOISE_GAIN", 0.0),
        (latency, "SURPRISE_GAIN", 0.0),
    ],
    "a high quantile of a run's length is planned with": [
        (latency, "INITIAL_SPREAD", 1.0),
        (latency, "LARGEST_SPREAD", 1.0),
    ],
}


def group_of(case: Case) -> str:
    """Return the column that a case belongs to."""
    if case.mix == PATIENT:
        return "patient"
    if case.arrivals == "callers":
        return "callers"
    if case.stalls:
        return "stalls"
    if case.streams:
        return "streams"
    if case.is_slow:
        return "slow"
    return "outside" if case.overhead_s else case.table


def measure(rule: str | None, *, requests: int, seeds: int) -> Points:
    """Return the correct answers in time of each case and load, in points of all requests, without a rule."""
    with ExitStack() as undo:
        for owner, name, other in RULES[rule] if rule else ():
            undo.enter_context(patch.object(owner, name, other))
        return {
            (case, load): mean(
                100 * correct_per_request(Play(case, load, requests, seed))
                for seed in range(1, seeds + 1)
            )
            for case in (*BASIC, *EXTRA, *SPECIAL)
            for load in LOADS
        }


def row_of(rule: str, without: Points, complete: Points) -> list[str]:
    """Return what a rule is worth in each group: in the mean, and at worst and best."""
    worth = defaultdict[str, list[float]](list)
    for (case, load), points in complete.items():
        worth[group_of(case)].append(points - without[case, load])
    return [
        rule,
        *(
            f"{mean(worth[group]):+.2f} ({min(worth[group]):+.1f} to {max(worth[group]):+.1f})"
            for group in GROUPS
        ),
    ]


def main() -> None:
    """Measure every rule; print the table, or put it in its place in the documents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", type=Path, help="the folder whose scheduling.md is to be updated")
    parser.add_argument("--requests", type=int, default=2000, help="in each run")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    complete = measure(None, requests=options.requests, seeds=options.seeds)
    rows = []
    for rule in RULES:
        without = measure(rule, requests=options.requests, seeds=options.seeds)
        rows.append(row_of(rule, without, complete))
        print(" | ".join(rows[-1]), flush=True)
    if options.docs:
        write_section(options.docs / "scheduling.md", "ablation", table(["rule", *GROUPS], rows))


if __name__ == "__main__":
    main()
