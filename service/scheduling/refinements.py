"""PURE: requests that have an answer, and time left for a better one.

Nothing here delays a request without an answer, beyond the run that is under way: a better answer is looked for only
when none waits, within an equal share of the time that those expected to come leave.
"""

from math import inf

from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.forecast import Capacity, Forecast
from service.scheduling.latency import Devices
from service.scheduling.model import Model
from service.scheduling.policies import Option
from service.scheduling.requests import Request

# An answer is delivered so long before its reply must begin: the timer is late by less.
TIMER_MARGIN_S = 0.0003
HORIZON_S = 0.25  # the rate is known from the latest arrivals; what comes later is not expected


class Refinements:
    """The requests that have an answer, in the order of their deadlines.

    Args:
        devices: what they run on.
        capacity: the machine's time.
        forecast: the requests to come.
    """

    def __init__(self, devices: Devices, capacity: Capacity, forecast: Forecast) -> None:
        self._devices = devices
        self._capacity = capacity
        self._forecast = forecast
        self._waiting = DeadlineQueue()
        self._answered = DeadlineQueue()  # these, and those in a run

    def __len__(self) -> int:
        """Return how many wait for a run."""
        return len(self._waiting)

    @property
    def head(self) -> Request:
        """The most urgent request that waits."""
        return self._waiting.head

    @property
    def next_delivery_at(self) -> float | None:
        """When the first answer must be delivered; None if there is none."""
        return self._deliver_at(self._answered.head) if self._answered else None

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
        if not self._answered:
            return ()
        taken = self._answered.take(
            self._answered.place_of(now + self._devices.reserve_s + TIMER_MARGIN_S)
        )
        for request in taken:
            self._waiting.remove(request)
        return taken

    def clear(self, model: Model) -> tuple[Request, ...]:
        """Take out all that wait for a model."""
        waiting = tuple([request for request in self._waiting if request.model is model])
        for request in waiting:
            self.release(request)
        return waiting

    def share_s(self, request: Request, now: float, *, others: float) -> float:
        """Return the run time that the refinement of a request may take, beside others that wait."""
        span_s = max(self._deliver_at(request) - now, 0.0)
        coming = self._forecast.rate(now) * min(span_s, HORIZON_S)
        due_before = 1 + others + coming * self._forecast.pace_s / request.model.pace_s
        (machine_s,) = self._capacity.left_s((span_s,), now)
        return machine_s / due_before - self._forecast.overhead_s / 2

    def step(
        self,
        request: Request,
        answered_by: str,
        now: float,
        *,
        others: float,
        limit_s: float = inf,
    ) -> Option | None:
        """Return the subnetwork that should answer a request next, after one that has; None if there is no time.

        Args:
            request: it has an answer.
            answered_by: the subnetwork that gave it.
            now: seconds.
            others: how many more wait.
            limit_s: how long the run may be, for others' sake.
        """
        slack_s = self._deliver_at(request) - now - self._capacity.until_free_s(now)
        limit_s = min(limit_s, slack_s, self.share_s(request, now, others=others))
        device, model = self._capacity.next_device(), request.model
        fitting = [
            (each, cost_s)
            for each in model.policy.options
            if each.accuracy > model.accuracy[answered_by]
            and (cost_s := model.latency.typical_s(each.name, 1, device)) <= limit_s
        ]
        if not fitting:
            return None
        deepest, deepest_s = fitting[-1]
        if request.refine == "steps":
            return next(
                (each for each, cost_s in fitting if cost_s + deepest_s <= limit_s), deepest
            )
        return deepest

    def take(self, option: Option, device: int, now: float) -> tuple[Request, ...]:
        """Take out the most urgent requests that a subnetwork can answer better together; at least one."""
        size, model = 0, self.head.model
        for request in self._waiting:
            if size == model.max_batch or request.model is not model:
                break
            assert request.answered_by is not None
            if model.accuracy[request.answered_by] >= option.accuracy:
                break
            size += 1
        limit_s = self._deliver_at(self.head) - now
        return self._waiting.take(next(option.efficient_sizes(size, limit_s, device), 1))

    def _deliver_at(self, request: Request) -> float:
        """Return when the best answer so far must be delivered."""
        return request.deadline_at - self._devices.reserve_s - TIMER_MARGIN_S
