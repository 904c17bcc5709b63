"""The cost of a decision, and of what fronts are told: `python -m benchmarks.virtual.decisions`."""

from random import Random
from statistics import median
from time import perf_counter

from benchmarks.load.workloads import MIXES_S
from benchmarks.virtual.cases import TABLES, Table
from service.scheduling.latency import LatencyModel
from service.scheduling.model import Model
from service.scheduling.requests import Request, Run
from service.scheduling.scheduler import Scheduler

WAITING = (1, 1000)
DECISIONS = 2000
STRETCH = 40  # deadlines are so much longer than the mix that 1,000 waiting can be met


def main() -> None:
    """Print the median costs with one request waiting and with many."""
    print(f"median of {DECISIONS}, in µs: table, deadlines, waiting; admit, next_action, publish")
    for name, table in TABLES.items():
        for mix, deadlines_s in MIXES_S.items():
            for waiting in WAITING:
                costs_us = measure(table, deadlines_s, waiting)
                cells = " ".join(f"{cost_us:6.1f}" for cost_us in costs_us)
                print(f"{name:9s} {mix:9s} {waiting:5d} {cells}", flush=True)


def measure(table: Table, deadlines_s: tuple[float, ...], waiting: int) -> tuple[float, ...]:
    """Return what it costs to admit a request, to choose a run, and to publish, so many waiting."""
    latency = LatencyModel(table.profile())
    model = Model(table.candidates(), latency, max_batch=table.max_batch)
    scheduler = Scheduler(latency.devices, [model])
    rng, now = Random(1), 0.0
    admit_s: list[float] = []
    choose_s: list[float] = []
    publish_s: list[float] = []
    while len(choose_s) < DECISIONS:
        while len(scheduler) < waiting:
            request = Request(now, now + STRETCH * rng.choice(deadlines_s))
            begun_at = perf_counter()
            scheduler.admit(request, now)
            admit_s.append(perf_counter() - begun_at)
        begun_at = perf_counter()
        for published in scheduler.admission.publish(now):
            published.to_floats()
        published_at = perf_counter()
        action = scheduler.next_action(now)
        choose_s.append(perf_counter() - published_at)
        publish_s.append(published_at - begun_at)
        assert isinstance(action, Run)  # nobody asks to be shed
        now += latency.typical_s(action.subnetwork, len(action.batch))
        scheduler.finished(action, now)
    return tuple(1e6 * median(each) for each in (admit_s[waiting:], choose_s, publish_s))


if __name__ == "__main__":
    main()
