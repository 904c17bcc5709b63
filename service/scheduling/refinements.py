"""PURE: requests that have an answer, and time left for a better one.

Nothing here delays a request without an answer: a refinement starts only where none waits, within an equal share of the
time that those expected to come budget, and for no longer than those could wait that may come meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from service.scheduling.capacity import Capacity
from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.forecast import Forecast
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Option
from service.scheduling.requests import STAGED, Request

TIMER_MARGIN_S = 0.0003  # before the reply must begin: the timer is late by less
HORIZON_S = 0.25  # ten times what the rate is known from: what comes later is not expected


@dataclass(frozen=True, slots=True)
class RefinementBudget:
    """What the load leaves to refinements.

    Args:
        device: the device that is free, or will be first.
        start_s: seconds until it is free.
        machine_s: seconds of all devices until the most urgent one's answer must be delivered, less what others need.
        due_before: how many share that time, those refined included.
        max_blocking_s: the longest run that is unlikely to cost an arrival its deadline.
    """

    device: int
    start_s: float
    machine_s: float
    due_before: float
    max_blocking_s: float

    @property
    def share_s(self) -> float:
        """The time that each may take."""
        return self.machine_s / self.due_before


class Refinements:
    """The requests with an answer, in the order of their deadlines.

    Args:
        options: what the policy chooses from, fastest first.
        accuracy: of every subnetwork that may have answered.
        latency: predicted run latencies.
        capacity: the machine's time.
        forecast: the requests to come.
        max_batch: the most requests in one run.
    """

    def __init__(
        self,
        options: Sequence[Option],
        accuracy: dict[str, float],
        latency: LatencyModel,
        capacity: Capacity,
        forecast: Forecast,
        *,
        max_batch: int,
    ) -> None:
        self._options = options
        self._accuracy = accuracy
        self._latency = latency
        self._capacity = capacity
        self._forecast = forecast
        self._max_batch = max_batch
        self._waiting = DeadlineQueue()
        self._answered = DeadlineQueue()  # these, and those in a run

    def __len__(self) -> int:
        """Return how many wait for a run."""
        return len(self._waiting)

    @property
    def head(self) -> Request:
        """The most urgent request that waits."""
        return self._waiting.head

    def deliver_at(self, request: Request) -> float:
        """Return when the best answer so far must be delivered."""
        return request.deadline_at - self._latency.reserve_s - TIMER_MARGIN_S

    @property
    def next_deliver_at(self) -> float | None:
        """When the first answer must be delivered; None if there is none."""
        return self.deliver_at(self._answered.head) if self._answered else None

    def hold(self, request: Request) -> None:
        """Keep a request, to be refined."""
        if request.answered_by is None:
            self._answered.add(request)
        self._waiting.add(request)

    def release(self, request: Request) -> bool:
        """Let a request go, wherever it is; False if it is not here."""
        self._waiting.remove(request)
        return self._answered.remove(request)

    def due(self, now: float) -> tuple[Request, ...]:
        """Take out those whose answers must be delivered now."""
        count = 0
        for request in self._answered:
            if self.deliver_at(request) > now:
                break
            count += 1
        taken = self._answered.take(count) if count else ()
        for request in taken:
            self._waiting.remove(request)
        return taken

    def clear(self) -> tuple[Request, ...]:
        """Take out all that wait."""
        waiting = self._waiting.take(len(self._waiting))
        for request in waiting:
            self._answered.remove(request)
        return waiting

    def budget(self, request: Request, now: float, *, others: int) -> RefinementBudget:
        """Return what the load leaves to the refinement of a request, beside others that wait."""
        device = self._capacity.next_device()
        # What insures is chosen beside all arrivals: bolder, it lost as much in mixed bursts as it won.
        own_at = request.arrived_at if request.refine in STAGED else None
        rate = self._forecast.rate(now, beside=own_at)
        span_s = max(self.deliver_at(request) - now, 0.0)
        coming = rate * min(span_s, HORIZON_S)
        # Of those to come, some want a deep answer, and go first; the others a first answer, and then wait behind the
        # deadlines before theirs, if they go on at all.
        staged = self._forecast.staged
        overtaking_s = float(np.sum(self._forecast.overtaking_s(np.array([span_s]))))
        deep = coming * (1 - staged) + rate * overtaking_s * staged * self._forecast.going_on
        due_before = 1 + others + deep
        machine_s = span_s * self._latency.devices - self._capacity.arrivals_s(coming)
        machine_s -= self._capacity.busy_s(now)
        machine_s -= coming * staged * self._capacity.run_s(device)
        return RefinementBudget(
            device=device,
            start_s=self._capacity.until_free_s(now),
            machine_s=machine_s - due_before * self._forecast.overhead_s / 2,
            due_before=due_before,
            max_blocking_s=self.max_blocking_s(rate),
        )

    def step(
        self, request: Request, answered_by: str, budget: RefinementBudget, now: float
    ) -> Option | None:
        """Return the subnetwork that should answer a request next, after one that has; None if there is no time."""
        slack_s = self.deliver_at(request) - now - budget.start_s
        limit_s = min(slack_s, budget.share_s, budget.max_blocking_s)
        deeper = [each for each in self._options if each.accuracy > self._accuracy[answered_by]]
        fitting = [
            (each, cost_s)
            for each in deeper
            if (cost_s := self._latency.typical_s(each.name, 1, budget.device)) <= limit_s
        ]
        if not fitting:
            return None
        deepest, deepest_s = fitting[-1]
        if request.refine == "steps":
            return next(
                (each for each, cost_s in fitting if cost_s + deepest_s <= limit_s), deepest
            )
        return deepest

    def should_defer(
        self, request: Request, answered_by: str, budget: RefinementBudget, now: float
    ) -> bool:
        """Whether a request that asked for better answers could have one, but for the latest arrivals."""
        if request.refine not in STAGED:
            return False
        in_lull = replace(budget, max_blocking_s=self.max_blocking_s(self._forecast.lull_rate(now)))
        return self.step(request, answered_by, in_lull, now) is not None

    def take(self, option: Option, budget: RefinementBudget, now: float) -> tuple[Request, ...]:
        """Take out the most urgent requests that a subnetwork can answer better together."""
        slack_s = self.deliver_at(self.head) - now
        size = 0
        for request in self._waiting:
            answered_by = request.answered_by
            assert answered_by is not None
            if size == self._max_batch or self._accuracy[answered_by] >= option.accuracy:
                break
            size += 1
        size = option.efficient_size(size)
        while size > 1:
            cost_s = self._latency.typical_s(option.name, size, budget.device)
            if cost_s <= min(slack_s, size * budget.share_s, budget.max_blocking_s):
                break
            size -= 1
        return self._waiting.take(size)

    def max_blocking_s(self, rate: float) -> float:
        """Return the longest run that is unlikely to cost one of the arrivals at a rate its deadline."""
        if not rate:
            return inf
        answer_s = self._latency.predict_s(self._options[0].name, 1) + self._latency.reserve_s
        return self._forecast.max_blocking_s(answer_s, rate)
