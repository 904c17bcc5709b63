"""PURE: the scheduler in virtual time, on a machine that exists only as numbers.

The server drives the same ``Scheduler`` object by the same calls, so that what is measured here is what runs there.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from service.scheduling.latency import LatencyModel
from service.scheduling.scheduler import Expire, Request, Run, Scheduler, Wait

Noise = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Machine:
    """How long runs take.

    Args:
        latency_s: run latency in seconds by subnetwork and batch size.
        noise: draws the factor by which a run takes longer; of mean 1.
        slow_from, slow_until: the instants between which everything takes ``slowdown`` times as long.
        overhead_s: what a request costs outside its run, on the core that runs it: half to read and decode it,
            before the scheduler knows of it, and half to reply. While a run is under way nothing else happens.
    """

    latency_s: LatencyModel
    noise: Noise = lambda: 1.0
    slow_from: float = 0.0
    slow_until: float = 0.0
    slowdown: float = 1.0
    overhead_s: float = 0.0

    def ends_at(self, start_at: float, work_s: float) -> float:
        """Return when work begun at an instant is done."""
        if start_at < self.slow_from:
            done_at = start_at + work_s
            if done_at <= self.slow_from:
                return done_at
            start_at, work_s = self.slow_from, done_at - self.slow_from
        if start_at < self.slow_until:
            done_at = start_at + work_s * self.slowdown
            if done_at <= self.slow_until:
                return done_at
            start_at, work_s = self.slow_until, (done_at - self.slow_until) / self.slowdown
        return start_at + work_s

    def work_by(self, at: float) -> float:
        """Return the work that can have been done by an instant, in seconds at full speed."""
        slow_s = min(max(at, self.slow_from), self.slow_until) - self.slow_from
        return at - slow_s * (1 - 1 / self.slowdown)


@dataclass(slots=True)
class Tally:
    """How many requests ended how; each is counted once.

    Args:
        in_time: answers in time, by subnetwork.
        late: answers after their deadline.
        refused: refused on arrival, by reason.
        expired: given up in the queue.
    """

    in_time: Counter[str] = field(default_factory=Counter)
    late: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    expired: int = 0

    @property
    def received(self) -> int:
        """All requests."""
        return self.in_time.total() + self.late + self.refused.total() + self.expired

    @property
    def attainment(self) -> float:
        """The fraction of all requests answered in time."""
        return self.in_time.total() / self.received

    def correct(self, accuracy: Mapping[str, float]) -> float:
        """Return the expected number of correct answers in time."""
        return sum(accuracy[name] * times for name, times in self.in_time.items())


def simulate(
    scheduler: Scheduler, believed: LatencyModel, machine: Machine, requests: Sequence[Request]
) -> Tally:
    """Serve requests, in order of arrival, until all have ended.

    Args:
        scheduler: decides; fresh.
        believed: the latency model the scheduler predicts with; it is told what runs took.
        machine: what runs take in truth.
        requests: in order of arrival.
    """
    tally = Tally()
    ends: list[tuple[float, int, float, Run]] = []  # (end, tie-break, start, run)
    ties = count()
    half_s = machine.overhead_s / 2
    now = 0.0
    wake_at: float | None = None
    arrived = 0

    def next_event_at() -> float | None:
        times = [ends[0][0]] if ends else []
        if arrived < len(requests) and not (half_s and ends):
            times.append(requests[arrived].arrived_at)
        if wake_at is not None:
            times.append(wake_at)
        return min(times, default=None)

    while (event_at := next_event_at()) is not None:
        now = max(now, event_at)
        while ends and ends[0][0] <= now:
            end_at, _, start_at, run = heappop(ends)
            believed.observe(run.subnetwork, len(run.batch), end_at - start_at, run.device)
            scheduler.finished(run, now)
            for request in run.batch:
                if half_s:
                    now = machine.ends_at(now, half_s)
                    believed.observe_reply(now - end_at)
                if now <= request.deadline_at:
                    tally.in_time[run.subnetwork] += 1
                else:
                    tally.late += 1
        while (
            arrived < len(requests)
            and requests[arrived].arrived_at <= now
            and not (half_s and ends)
        ):
            if half_s:
                now = machine.ends_at(now, half_s)
                scheduler.observe_overhead(machine.overhead_s)
            refusal = scheduler.admit(requests[arrived], now)
            arrived += 1
            if refusal is not None:
                tally.refused[refusal.reason] += 1
        while not isinstance(action := scheduler.next_action(now), Wait):
            match action:
                case Expire(expired):
                    tally.expired += len(expired)
                case Run(batch=batch, subnetwork=subnetwork):
                    work_s = machine.latency_s.profile_s(subnetwork, len(batch)) * machine.noise()
                    heappush(ends, (machine.ends_at(now, work_s), next(ties), now, action))
        wake_at = action.until
    return tally
