"""The cost of a decision with many requests waiting: `python -m benchmarks.decisions`."""

from random import Random
from statistics import median
from time import perf_counter

from benchmarks.cases import TABLES
from benchmarks.workloads import MIXES_S
from service.scheduling.latency import LatencyModel
from service.scheduling.requests import Request, Run
from service.scheduling.scheduler import Scheduler

WAITING = 1000
DECISIONS = 2000
STRETCH = 40  # deadlines are so much longer than the mix that 1,000 waiting can be met


def main() -> None:
    """Print the median cost of admitting a request and of choosing a run."""
    print(
        f"median of {DECISIONS} with {WAITING} waiting: table, deadlines, admit µs, next_action µs"
    )
    for name, table in TABLES.items():
        for mix, deadlines_s in MIXES_S.items():
            latency = LatencyModel(table.profile())
            scheduler = Scheduler(table.candidates(), latency, max_batch=table.max_batch)
            rng, now = Random(1), 0.0
            admit_s: list[float] = []
            choose_s: list[float] = []
            while len(choose_s) < DECISIONS:
                while len(scheduler) < WAITING:
                    request = Request(now, now + STRETCH * rng.choice(deadlines_s))
                    begun_at = perf_counter()
                    scheduler.admit(request, now)
                    admit_s.append(perf_counter() - begun_at)
                begun_at = perf_counter()
                action = scheduler.next_action(now)
                choose_s.append(perf_counter() - begun_at)
                assert isinstance(action, Run)  # nobody asks to be refused
                now += latency.typical_s(action.subnetwork, len(action.batch))
                scheduler.finished(action, now)
            costs = (median(admit_s[WAITING:]), median(choose_s))
            print(f"{name:12s} {mix:9s} {costs[0] * 1e6:5.1f} {costs[1] * 1e6:5.1f}")


if __name__ == "__main__":
    main()
