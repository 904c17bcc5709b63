"""Workloads on machines in virtual time: what ``benchmarks.virtual.policies`` and ``benchmarks.virtual.ablation`` play."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

from benchmarks.load.workloads import ARRIVALS, MIXES_S, arrival_times, deadlines
from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.requests import Refine, Request
from service.scheduling.scheduler import Scheduler
from service.scheduling.simulator import Machine, Simulation, Tally

NOISE_CV = 0.1  # coefficient of variation of run latencies
STALL_S, STALL_GAP_S = (0.005, 0.050), 0.1  # length, evenly drawn, and mean gap
PATIENT = "5 ms and 200 ms"  # one of four is urgent
DEADLINES_S = MIXES_S | {PATIENT: (0.005, 0.2, 0.2, 0.2)}
CALLERS = 10  # closed-loop callers at a load of 1
PAUSE_S = 0.001  # between an answer and the next request of the same caller


@dataclass(frozen=True, slots=True)
class Table:
    """Accuracy of each subnetwork, and its run latency in ms by batch size."""

    max_batch: int
    rows: Mapping[str, tuple[float, Mapping[int, float]]]

    def candidates(self) -> list[Candidate]:
        """Return what a scheduler chooses from."""
        return [Candidate(name, accuracy) for name, (accuracy, _) in self.rows.items()]

    def accuracy(self) -> dict[str, float]:
        """Return the fraction of correct answers by subnetwork."""
        return {name: accuracy for name, (accuracy, _) in self.rows.items()}

    def profile(self) -> dict[str, dict[int, float]]:
        """Return run latencies in seconds by subnetwork and batch size."""
        return {
            name: {size: run_ms / 1000 for size, run_ms in cells.items()}
            for name, (_, cells) in self.rows.items()
        }

    def least_s(self) -> float:
        """Return the least time that a request takes in any subnetwork, in a batch of the best size."""
        return min(run_s / n for cells in self.profile().values() for n, run_s in cells.items())


TABLES = {
    # model/pretrained/cifar10 before its columns had filters of their own, in the precision that the server chooses
    # (int8), one core of an AMD EPYC, as its warm-up measures it; accuracy on the 5,000 validation images.
    "CPU core": Table(
        16,
        {
            "column-1": (0.8188, {1: 0.091, 2: 0.155, 4: 0.235, 8: 0.534, 16: 1.094}),
            "column-2": (0.8506, {1: 0.175, 2: 0.297, 4: 0.545, 8: 1.093, 16: 2.925}),
            "column-3": (0.8568, {1: 0.313, 2: 0.628, 4: 1.080, 8: 2.142, 16: 5.028}),
            "columns-1-3": (0.8596, {1: 0.372, 2: 0.668, 4: 1.318, 8: 2.458, 16: 5.598}),
            "columns-2-3": (0.8748, {1: 0.443, 2: 0.796, 4: 1.680, 8: 3.057, 16: 7.039}),
            "columns-1-2-3": (0.8762, {1: 0.494, 2: 0.964, 4: 1.937, 8: 3.599, 16: 7.860}),
            "full": (0.8886, {1: 1.268, 2: 2.321, 4: 4.501, 8: 8.043, 16: 16.024}),
        },
    ),
    # Of no machine in particular; a batch of 32 costs a tenth of 32 runs.
    "GPU": Table(
        32,
        {
            "column-1": (0.83, {1: 0.66, 32: 2.52}),
            "column-2": (0.89, {1: 1.02, 32: 4.74}),
            "column-3": (0.915, {1: 1.72, 32: 8.54}),
            "column-4": (0.925, {1: 3.10, 32: 15.5}),
            "full": (0.935, {1: 3.75, 32: 20.8}),
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A workload on a machine.

    Args:
        table: of ``TABLES``.
        arrivals: of ``ARRIVALS``, or ``callers``: so many that each asks again a millisecond after its answer.
        mix: of ``DEADLINES_S``: the deadlines.
        devices: work side by side.
        overhead_s: what a request costs outside its run on the same core.
        slows_down: whether the machine is half as fast for a fifth of the time.
        is_slow: whether it is half as fast as its profile says, all of the time.
        stalls: whether it stands still for 5 to 50 ms, every 100 ms on average.
        streams: the share of requests that want every better answer (``refine="steps"``).
    """

    table: str
    arrivals: str
    mix: str
    devices: int = 1
    overhead_s: float = 0.0
    slows_down: bool = False
    is_slow: bool = False
    stalls: bool = False
    streams: float = 0.0

    def __str__(self) -> str:
        """Return its name in tables."""
        extras = [f"{self.devices} devices"] * (self.devices > 1)
        extras += [f"{self.overhead_s * 1000:g} ms outside each run"] * (self.overhead_s > 0)
        extras += ["half as fast for a fifth of the time"] * self.slows_down
        extras += ["half as fast as profiled"] * self.is_slow
        extras += ["stalls"] * self.stalls
        extras += [f"{self.streams:.0%} streams"] * (self.streams > 0)
        return ", ".join([self.table, self.arrivals, self.mix, *extras])


BASIC = tuple(Case(table, kind, mix) for table in TABLES for kind in ARRIVALS for mix in MIXES_S)
EXTRA = tuple(
    replace(case, **changes)
    for table in TABLES
    for case in (Case(table, "poisson", "25 ms"), Case(table, "gamma", "5-100 ms"))
    for changes in ({"devices": 2}, {"slows_down": True})
) + tuple(
    Case("CPU core", kind, mix, overhead_s=0.0004)
    for kind, mix in (("poisson", "25 ms"), ("gamma", "5-100 ms"))
)


@dataclass(frozen=True, slots=True)
class Play:
    """One case at one load: the requests and the machine, the same for every scheduler.

    Args:
        case: what is played.
        load: in parts of what the devices can answer in the fastest subnetwork; callers in parts of ``CALLERS``.
        requests: how many are sent.
        seed: of everything that is drawn.
    """

    case: Case
    load: float
    requests: int
    seed: int

    @property
    def table(self) -> Table:
        """What runs cost."""
        return TABLES[self.case.table]

    def windows(self) -> list[tuple[float, float]]:
        """Return arrival and deadline of each request, in seconds; callers decide on theirs as they go."""
        case = self.case
        rate = self.load * case.devices / (self.table.least_s() + case.overhead_s)
        times = arrival_times(case.arrivals, rate=rate, count=self.requests, seed=self.seed)
        return [(at, at + s) for at, s in zip(times.tolist(), self._deadlines_s(), strict=True)]

    def machine(self, span_s: float) -> Machine:
        """Return a machine for so long a time, with noise of its own."""
        rng, shape = Random(self.seed), NOISE_CV**-2
        slow, slowdown = list[tuple[float, float]](), 1.0
        if self.case.slows_down:
            slow, slowdown = [(0.4 * span_s, 0.6 * span_s)], 2.0
        if self.case.is_slow:
            slow, slowdown = [(0.0, inf)], 2.0
        if self.case.stalls:
            at, slowdown = rng.expovariate(1 / STALL_GAP_S), inf
            while at < span_s:
                slow.append((at, at + rng.uniform(*STALL_S)))
                at = slow[-1][1] + rng.expovariate(1 / STALL_GAP_S)
        return Machine(
            LatencyModel(self.table.profile()),
            noise=lambda: rng.gammavariate(shape, 1 / shape),
            slow=slow,
            slowdown=slowdown,
            overhead_s=self.case.overhead_s,
        )

    def run(
        self,
        policy: str = "anytime",
        *,
        max_queue: int | None = None,
        build: Callable[..., Scheduler] = Scheduler,
    ) -> Tally:
        """Return how the requests ended; without a limit the queue takes all of them."""
        devices = Devices(self.case.devices, reserve_s=0.0)
        model = Model(
            self.table.candidates(),
            LatencyModel(self.table.profile(), devices),
            policy=policy,
            max_batch=self.table.max_batch,
        )
        scheduler = build(devices, [model], max_queue=max_queue or self.requests)
        if self.case.arrivals == "callers":
            return self._run_callers(scheduler)
        windows, rng = self.windows(), Random(self.seed)
        simulation = Simulation(scheduler, self.machine(windows[-1][0]))
        for arrived_at, deadline_at in windows:
            refine: Refine = "steps" if rng.random() < self.case.streams else "none"
            simulation.offer(Request(arrived_at, deadline_at, refine=refine))
        simulation.run_until(inf)
        return simulation.tally

    def _run_callers(self, scheduler: Scheduler) -> Tally:
        """Serve callers that wait for their answers."""
        limits_s = iter(self._deadlines_s())

        def ask(at: float) -> None:
            limit_s = next(limits_s, None)
            if limit_s is not None:
                simulation.offer(Request(at, at + limit_s))

        machine = self.machine(60.0)
        simulation = Simulation(scheduler, machine, lambda _, at: ask(at + PAUSE_S))
        for caller in range(max(round(self.load * CALLERS), 1)):
            ask(caller * PAUSE_S / CALLERS)
        simulation.run_until(inf)
        return simulation.tally

    def _deadlines_s(self) -> Sequence[float]:
        return deadlines(DEADLINES_S[self.case.mix], count=self.requests, seed=self.seed)


def correct_per_request(play: Play, run: Callable[[Play], Tally] = Play.run) -> float:
    """Return the expected correct answers in time, per request."""
    return run(play).correct(play.table.accuracy()) / play.requests
