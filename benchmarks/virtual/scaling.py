"""``python -m benchmarks.virtual.scaling``: many replicas in virtual time, by how requests find their replica.

Each replica is one core with a scheduler of its own: the server's, on the run latencies of ``TABLES["CPU core"]``, with
what reading and replying cost on one core. A proxy sends each request by turns, to a replica at random, or to the one of
two drawn at random that has fewer unanswered requests.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from benchmarks.load.workloads import arrival_times
from benchmarks.virtual.cases import NOISE_CV, TABLES
from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.requests import Request
from service.scheduling.scheduler import Scheduler
from service.scheduling.simulator import Machine, Simulation

TABLE = TABLES["CPU core"]
OVERHEAD_S = 0.0005  # outside the run, a request: what one core measured
REPLICAS = (8, 32)
LOADS = (0.4, 0.7, 0.85)  # of the replicas' capacity in the shallowest subnetwork
SLOW_SHARE, SLOWDOWN = 0.125, 2.0  # of the replicas have a neighbour that takes half their core

Router = Callable[[Sequence[Simulation]], Simulation]


def by_turns() -> Router:
    """Send to one after the other."""
    turn = 0

    def route(replicas: Sequence[Simulation]) -> Simulation:
        nonlocal turn
        turn += 1
        return replicas[turn % len(replicas)]

    return route


def at_random(rng: Random) -> Router:
    """Send to any: what clients and kube-proxy do."""
    return rng.choice


def better_of_two(rng: Random) -> Router:
    """Send to the less busy of two drawn at random (Mitzenmacher 2001)."""

    def route(replicas: Sequence[Simulation]) -> Simulation:
        return min(rng.choice(replicas), rng.choice(replicas), key=lambda each: each.unanswered)

    return route


def measure(
    replicas: int, load: float, deadline_s: float, router: Router, *, seconds: float, uneven: bool
) -> tuple[float, float]:
    """Return the fraction of requests in time, and the expected accuracy of those answers."""
    profile = TABLE.profile()
    pace_s = min(t / n for curve in profile.values() for n, t in curve.items())
    rate = load * replicas / (pace_s + OVERHEAD_S)
    slow = int(SLOW_SHARE * replicas) if uneven else 0
    fleet = [_replica(Random(k), is_slow=k < slow) for k in range(replicas)]
    for at in arrival_times("poisson", rate=rate, count=int(rate * seconds), seed=1).tolist():
        for each in fleet:
            each.run_until(at)
        router(fleet).offer(Request(at, at + deadline_s, on_miss="refuse"))
    in_time: Counter[str] = Counter()
    for each in fleet:
        each.run_until(float("inf"))
        in_time += each.tally.in_time
    received = sum(each.tally.received for each in fleet)
    accuracy = {each.name: each.accuracy for each in TABLE.candidates()}
    correct = sum(accuracy[name] * n for name, n in in_time.items())
    return in_time.total() / received, correct / max(in_time.total(), 1)


def _replica(rng: Random, *, is_slow: bool) -> Simulation:
    profile, shape = TABLE.profile(), NOISE_CV**-2
    devices = Devices()
    model = Model(TABLE.candidates(), LatencyModel(profile, devices), max_batch=TABLE.max_batch)
    machine = Machine(
        LatencyModel(profile),
        noise=lambda: rng.gammavariate(shape, 1 / shape),
        slow=[(0.0, float("inf"))] if is_slow else [],
        slowdown=SLOWDOWN,
        overhead_s=OVERHEAD_S,
    )
    return Simulation(Scheduler(devices, [model]), machine)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of load, in virtual time")
    options = parser.parse_args()
    print(
        "In time, %, and expected accuracy of those answers, %. Poisson arrivals, on_miss=refuse.\n"
    )
    loads = [f"{load:.0%} load" for load in LOADS]
    print("| deadline | replicas | sent | " + " | ".join(loads) + " |")
    print("|---|---:|---|" + "---:|" * len(loads))
    for deadline_ms in (5, 25):
        for count in REPLICAS:
            for uneven in (False, True):
                routers = {
                    "by turns": by_turns(),
                    "at random": at_random(Random(1)),
                    "better of two": better_of_two(Random(1)),
                }
                for name, router in routers.items():
                    cells = []
                    for load in LOADS:
                        in_time, accuracy = measure(
                            count,
                            load,
                            deadline_ms / 1000,
                            router,
                            seconds=options.seconds,
                            uneven=uneven,
                        )
                        cells.append(f"{in_time:.1%}, {accuracy:.1%}")
                    kind = f"{count}, one in eight half as fast" if uneven else str(count)
                    row = [f"{deadline_ms} ms", kind, name, *cells]
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
