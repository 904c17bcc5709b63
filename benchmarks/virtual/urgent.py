"""Urgent requests beside patient callers in virtual time: `python -m benchmarks.virtual.urgent`.

Each caller asks again a millisecond after its answer, so that there is always something to run that nobody is in a hurry for.
What is in time is told with the rules of ``RULES_FOR_THEM`` and without.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from random import Random
from unittest.mock import patch

from benchmarks.documents import table
from benchmarks.virtual.ablation import RULES
from benchmarks.virtual.cases import NOISE_CV, PAUSE_S, TABLES
from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.requests import Request
from service.scheduling.scheduler import Scheduler
from service.scheduling.simulator import Machine, Simulation

RULES_FOR_THEM = (
    "no run is so long that urgent arrivals are lost",
    "a proven rate is that of a short time",
)
SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Beside:
    """Urgent requests, and the callers beside them.

    Args:
        table: of ``TABLES``.
        slower: than the table, so many times.
        overhead_s: what a request costs outside its run on the same core.
        rate: urgent requests a second.
        urgent_s, patient_s: the deadlines.
        callers: how many patient ones there are.
    """

    table: str
    slower: float
    overhead_s: float
    rate: float
    urgent_s: float
    callers: int
    patient_s: float

    def __str__(self) -> str:
        """Return what is played in words."""
        return (
            f"{self.rate:g}/s, {1000 * self.urgent_s:g} ms | {self.callers} callers, {self.patient_s:g} s | {self.table}"
            + (f", {self.slower:g} times slower" if self.slower != 1 else "")
            + (f", {1000 * self.overhead_s:g} ms outside each run" if self.overhead_s else "")
        )


CASES = (
    Beside("CPU core", 4, 0.0008, 50, 0.040, 8, 3.0),
    Beside("CPU core", 1, 0.0004, 50, 0.010, 8, 3.0),
    Beside("CPU core", 1, 0.0004, 200, 0.010, 8, 3.0),
    Beside("CPU core", 1, 0.0004, 200, 0.005, 16, 1.0),
    Beside("CPU core", 1, 0.0, 100, 0.005, 32, 0.5),
    Beside("GPU", 1, 0.0, 500, 0.005, 64, 1.0),
    Beside("GPU", 1, 0.0, 500, 0.010, 64, 1.0),
)


def play(case: Beside) -> tuple[float, float, float]:
    """Return the shares of the urgent and of the patient requests that are in time, and how many patient ones end a second."""
    known = TABLES[case.table]
    profile = {
        name: {size: run_s * case.slower for size, run_s in cells.items()}
        for name, cells in known.profile().items()
    }
    rng, shape = Random(1), NOISE_CV**-2
    devices = Devices(1, reserve_s=0.0)
    model = Model(known.candidates(), LatencyModel(profile, devices), max_batch=known.max_batch)
    machine = Machine(
        LatencyModel(profile),
        noise=lambda: rng.gammavariate(shape, 1 / shape),
        overhead_s=case.overhead_s,
    )
    in_time, ended = {True: 0, False: 0}, {True: 0, False: 0}

    def ask(at: float) -> None:
        simulation.offer(Request(at, at + case.patient_s))

    def on_end(request: Request, at: float) -> None:
        is_urgent = request.on_miss == "refuse"
        ended[is_urgent] += 1
        in_time[is_urgent] += simulation.tally.in_time.total() - sum(in_time.values())
        if not is_urgent and at < SECONDS:
            ask(at + PAUSE_S)

    simulation = Simulation(Scheduler(devices, [model]), machine, on_end)
    for _ in range(case.callers):
        ask(0.0)
    at = rng.expovariate(case.rate)
    while at < SECONDS:
        simulation.offer(Request(at, at + case.urgent_s, on_miss="refuse"))
        at += rng.expovariate(case.rate)
    simulation.run_until(inf)
    return in_time[True] / ended[True], in_time[False] / ended[False], ended[False] / SECONDS


def main() -> None:
    """Play each case without the rules and with them, and print the table."""
    rows = []
    for case in CASES:
        with ExitStack() as undo:
            for rule in RULES_FOR_THEM:
                for owner, name, other in RULES[rule]:
                    undo.enter_context(patch.object(owner, name, other))
            before = play(case)
        after = play(case)
        in_time = [f"{100 * a:.1f} -> {100 * b:.1f} %" for a, b in zip(before, after, strict=True)]
        rows.append([*str(case).split(" | "), *in_time[:2], f"{before[2]:,.0f} -> {after[2]:,.0f}"])
    header = ["urgent", "patient", "on", "urgent in time", "patient in time", "patient answers/s"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
