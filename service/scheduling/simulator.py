"""PURE: the scheduler in virtual time, on a machine that exists only as numbers.

The server drives the same ``Scheduler`` object by the same calls, so that what is measured here is what runs there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf

from service.scheduling.latency import LatencyModel
from service.scheduling.model import Model
from service.scheduling.requests import Deliver, Displace, Expire, Request, Run, Wait
from service.scheduling.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Machine:
    """How long work takes.

    Args:
        latency_s: run latency in seconds by subnetwork, whose names no two models share, and batch size.
        noise: draws the factor by which a run takes longer; of mean 1.
        slow: the spans of time, in order, in which everything takes ``slowdown`` times as long.
        overhead_s: what a request costs outside its run, on the core that runs it: half to read and decode it,
            before the scheduler knows of it, and half to reply. While a run is under way nothing else happens.
    """

    latency_s: LatencyModel
    noise: Callable[[], float] = lambda: 1.0
    slow: Sequence[tuple[float, float]] = ()
    slowdown: float = 1.0
    overhead_s: float = 0.0

    def ends_at(self, start_at: float, work_s: float) -> float:
        """Return when work begun at an instant is done."""
        for slow_from, slow_until in self.slow:
            if start_at < slow_from:
                if start_at + work_s <= slow_from:
                    break
                work_s -= slow_from - start_at
                start_at = slow_from
            if start_at < slow_until:
                done_at = start_at + work_s * self.slowdown
                if done_at <= slow_until:
                    return done_at
                work_s -= (slow_until - start_at) / self.slowdown
                start_at = slow_until
        return start_at + work_s

    def work_by(self, at: float) -> float:
        """Return the work that can have been done by an instant, in seconds at full speed."""
        slow_s = sum(min(max(at, begin), end) - begin for begin, end in self.slow)
        return at - slow_s * (1 - 1 / self.slowdown)


@dataclass(slots=True)
class Tally:
    """How many requests ended how; each is counted once.

    Args:
        in_time: answers in time, by subnetwork.
        late: answers after their deadline.
        shed: on arrival or for a more urgent one, by reason.
        expired: those whose time went by in the queue.
    """

    in_time: Counter[str] = field(default_factory=Counter)
    late: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    expired: int = 0

    @property
    def received(self) -> int:
        """All requests."""
        return self.in_time.total() + self.late + self.shed.total() + self.expired

    @property
    def attainment(self) -> float:
        """The fraction of all requests answered in time."""
        return self.in_time.total() / self.received

    def correct(self, accuracy: Mapping[str, float]) -> float:
        """Return the expected number of correct answers in time."""
        return sum(accuracy[name] * times for name, times in self.in_time.items())


class Simulation:
    """One server in virtual time.

    Args:
        scheduler: decides; fresh.
        machine: what runs take in truth.
        on_end: is given each request that ended, and when; it may offer another.

    Attributes:
        tally: how the requests ended so far.
        unanswered: requests that were offered and have not ended.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        machine: Machine,
        on_end: Callable[[Request, float], None] = lambda request, at: None,
    ) -> None:
        self.tally = Tally()
        self.unanswered = 0
        self._scheduler = scheduler
        self._machine = machine
        self._on_end = on_end
        self._half_s = machine.overhead_s / 2
        # (arrival, tie-break, request, what it asks)
        self._arrivals: list[tuple[float, int, Request, Model | None]] = []
        self._ends: list[tuple[float, int, float, Run]] = []  # (end, tie-break, start, run)
        self._refined: set[Request] = set()
        self._ties = count()
        self._now = 0.0
        self._wake_at: float | None = None

    def offer(self, request: Request, model: Model | None = None) -> None:
        """Let a request come at its arrival, for a model; None stands for the first."""
        heappush(self._arrivals, (request.arrived_at, next(self._ties), request, model))
        self.unanswered += 1

    def run_until(self, at: float) -> None:
        """Serve until an instant; what happens after it is left for later."""
        while (event_at := self._next_event_at()) <= at:
            if event_at == inf:
                break
            self._now = max(self._now, event_at)
            self._end_runs()
            self._take_arrivals()
            self._act()

    def _next_event_at(self) -> float:
        """Return when something happens next; never is infinity."""
        event_at = self._ends[0][0] if self._ends else inf
        if self._arrivals and self._is_reading:
            event_at = min(event_at, self._arrivals[0][0])
        return event_at if self._wake_at is None else min(event_at, self._wake_at)

    @property
    def _is_reading(self) -> bool:
        """Whether arrivals are read: not while a run takes the core."""
        return not (self._half_s and self._ends)

    def _end_runs(self) -> None:
        while self._ends and self._ends[0][0] <= self._now:
            end_at, _, start_at, run = heappop(self._ends)
            run_s = end_at - start_at
            run.model.latency.observe(run.subnetwork, len(run.batch), run_s, run.device)
            self._scheduler.finished(run, self._now)
            for place, request in enumerate(run.batch):
                if request.answered_by is not None and request not in self._refined:
                    continue  # its answer was delivered meanwhile
                if self._scheduler.refine(request, run.subnetwork, self._now):
                    self._refined.add(request)
                else:
                    self._reply(request, run.subnetwork, end_at, is_first=place == 0)

    def _reply(
        self, request: Request, answered_by: str, given_at: float, *, is_first: bool
    ) -> None:
        self._refined.discard(request)
        if self._half_s:
            self._now = self._machine.ends_at(self._now, self._half_s)
            if is_first:
                self._scheduler.devices.observe_reply(self._now - given_at)
        if self._now <= request.deadline_at:
            self.tally.in_time[answered_by] += 1
        else:
            self.tally.late += 1
        self._end((request,))

    def _end(self, requests: Sequence[Request]) -> None:
        self.unanswered -= len(requests)
        for request in requests:
            self._on_end(request, self._now)

    def _take_arrivals(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self._now and self._is_reading:
            if self._half_s:
                self._now = self._machine.ends_at(self._now, self._half_s)
                self._scheduler.observe_overhead(self._machine.overhead_s, self._half_s)
            _, _, request, model = heappop(self._arrivals)
            shed = self._scheduler.admit(request, self._now, model=model)
            if shed is not None:
                self.tally.shed[shed.reason] += 1
                self._end((request,))

    def _act(self) -> None:
        machine = self._machine
        while not isinstance(action := self._scheduler.next_action(self._now), Wait):
            match action:
                case Expire(expired):
                    self.tally.expired += len(expired)
                    self._end(expired)
                case Displace(requests, shed):
                    self.tally.shed[shed.reason] += len(requests)
                    self._end(requests)
                case Deliver(requests):
                    given_at = self._now
                    for place, request in enumerate(requests):
                        assert request.answered_by is not None
                        self._reply(request, request.answered_by, given_at, is_first=place == 0)
                case Run(batch=batch, subnetwork=subnetwork):
                    work_s = machine.latency_s.profile_s(subnetwork, len(batch)) * machine.noise()
                    end_at = machine.ends_at(self._now, work_s)
                    heappush(self._ends, (end_at, next(self._ties), self._now, action))
        self._wake_at = action.until


def simulate(scheduler: Scheduler, machine: Machine, requests: Iterable[Request]) -> Tally:
    """Serve requests, in order of arrival, until all have ended."""
    simulation = Simulation(scheduler, machine)
    for request in requests:
        simulation.offer(request)
    simulation.run_until(inf)
    return simulation.tally
