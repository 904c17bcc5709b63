"""PURE: who is let in, who is refused and why, and what can be told of that before a request is parsed or decoded."""

from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from service.scheduling.actions import Refusal
from service.scheduling.best_effort import BestEffort
from service.scheduling.capacity import Capacity
from service.scheduling.deadline_queue import STAGED, DeadlineQueue, Request
from service.scheduling.forecast import Forecast
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Option

DOUBT_AFTER_S = 0.1  # without a run, on an idle machine that refuses
FLOOD = 16  # requests that were read and wait are no burst any more: as much comes again while they are worked on
FLOOD_TAKES = 2.0  # times as long as the work itself, with the refusals of what comes meanwhile


class Admission:
    """The way into the queues.

    Args:
        queue: of the requests that can be met.
        best_effort: of those that get a late answer.
        latency: predicted run latencies.
        capacity: the machine's time.
        forecast: is told of every arrival.
        fastest: what those run in that would otherwise be lost.
        max_queue: the most requests that may wait.
    """

    def __init__(
        self,
        queue: DeadlineQueue,
        best_effort: BestEffort,
        latency: LatencyModel,
        capacity: Capacity,
        forecast: Forecast,
        *,
        fastest: Option,
        max_queue: int,
    ) -> None:
        self._queue = queue
        self._best_effort = best_effort
        self._latency = latency
        self._capacity = capacity
        self._forecast = forecast
        self._fastest = fastest
        self._max_queue = max_queue
        self._max_late = (max_queue + 1) // 2  # the other places are for requests that can be met
        self._counts = np.arange(1.0, max_queue + 1.0)
        self._last_run_at = -inf

    @property
    def _waiting(self) -> int:
        return len(self._queue) + len(self._best_effort)

    def ran(self, now: float) -> None:
        """Note that a run ended."""
        self._last_run_at = now

    def admit(self, request: Request, now: float, *, was_alone: bool = False) -> Refusal | None:
        """Accept a request, or say why not.

        Args:
            request: it has come and was decoded.
            now: seconds.
            was_alone: whether all the time since its arrival went to itself.
        """
        self._count_arrival(request, now, is_staged=request.refine in STAGED)
        if self._waiting >= self._max_queue:
            return Refusal("queue_full", 0.0, self._max_queue, self._drain_s(now))
        name = request.subnetwork or self._fastest.name
        own_s = self._latency.predict_s(name, self._company(request)) + self._latency.reserve_s
        start_s = self._start_s(request, now)
        if now + start_s + own_s <= request.deadline_at:
            self._queue.add(request)
        elif request.on_miss == "answer":
            if len(self._best_effort) >= self._max_late:
                return Refusal("queue_full", 0.0, self._max_late, self._drain_s(now))
            self._best_effort.add((request,))
        else:
            return self._too_late(request, start_s, own_s, now, was_alone=was_alone)
        return None

    def foresee(self, request: Request, now: float, *, was_alone: bool = False) -> Refusal | None:
        """Say why a request would be refused although its image took no time to decode, if it would: none need be decoded.

        Args:
            request, now, was_alone: as of ``admit``, which is not to be called for those refused here.
        """
        if request.on_miss == "answer":
            return None
        own_s = self.least_s(request.subnetwork)
        start_s = self._capacity.until_free_s(now)
        if now + start_s + own_s <= request.deadline_at:
            return None
        self._count_arrival(request, now)
        return self._too_late(request, start_s, own_s, now, was_alone=was_alone)

    def would_miss_deadline(self, deadline_at: float, unread: int, now: float) -> bool:
        """Say whether a request is lost behind those due before it and so many others that are still to come here."""
        before_s = self._queue.place_of(deadline_at) * self._capacity.pace_s(now)
        before_s += self._unread_s(unread)
        if unread >= FLOOD:
            before_s *= FLOOD_TAKES
        return now + self._capacity.until_free_s(now) + before_s + self.least_s() > deadline_at

    def count_shed(self, now: float, deadline_s: float) -> None:
        """Count an arrival that was refused before it came here."""
        self._forecast.arrived(now, deadline_s)

    def backlog_s(self, unread: int, now: float) -> float:
        """Return how long the work lasts that was accepted, and that of so many requests that are still to come here."""
        return self._drain_s(now) + self._unread_s(unread)

    def least_s(self, subnetwork: str | None = None) -> float:
        """Return how long before its deadline the run of a request must start, if it runs alone: in this subnetwork, or any."""
        name = subnetwork or self._fastest.name
        return self._latency.predict_s(name, 1) + self._latency.reserve_s

    def idle_s(self, subnetwork: str | None = None) -> float:
        """Return the shortest deadline that an idle machine meets, in this subnetwork or any."""
        name = subnetwork or self._fastest.name
        return self._latency.profile_s(name, 1) + self._latency.idle_reserve_s

    def spare_s(self, now: float) -> NDArray[np.float64]:
        """Return (n,) how long each waiting request's run could be put off, were all run as fast as can be."""
        slack_s = self._queue.slack_s(
            now + self._latency.reserve_s + self._capacity.until_free_s(now)
        )
        return slack_s - self._counts[: len(slack_s)] * self._capacity.pace_s(now)

    def _count_arrival(
        self, request: Request, now: float, *, is_staged: bool | None = None
    ) -> None:
        idle_since_it_came = request.arrived_at > self._last_run_at and self._capacity.is_idle
        self._forecast.arrived(
            now,
            request.deadline_at - now,
            found_idle=idle_since_it_came and not self._waiting,
            is_staged=is_staged,
        )

    def _start_s(self, request: Request, now: float) -> float:
        """Return when a new request could start, in seconds from now; never, if only in another's place."""
        pace_s = self._capacity.pace_s(now)
        kept_s = self._kept_s(pace_s)
        start_s = self._capacity.until_free_s(now) + kept_s
        if not self._queue:
            return start_s
        place = self._queue.place_of(request.deadline_at)
        spare_s = self.spare_s(now) - kept_s
        if place < len(spare_s) and spare_s[place:].min() < pace_s:
            return inf
        if place:  # of those before it, some may be lost already and take no time
            start_s += place * pace_s + min(float(spare_s[:place].min()), 0.0)
        return start_s

    def _kept_s(self, pace_s: float) -> float:
        """Return the time that is kept free for the next best-effort request: once it is due, as long as it takes."""
        if not self._best_effort:
            return 0.0
        if not self._best_effort.is_due:
            return pace_s
        return max(pace_s, self._latency.predict_s(self._best_effort.subnetwork, 1))

    def _company(self, request: Request) -> int:
        """Return the size of the batch a new request will run in, were all run as fast as can be."""
        if request.subnetwork is not None:
            return 1
        return min(len(self._queue) + 1, self._fastest.best_size)

    def _unread_s(self, unread: int) -> float:
        """Return how long so many requests take that are still to come here."""
        each_s = self._capacity.run_s() + self._forecast.overhead_s
        return unread * each_s / self._latency.devices

    def _drain_s(self, now: float) -> float:
        """Return when the requests that wait should be done, in seconds from now."""
        return self._waiting * self._capacity.pace_s(now) + self._capacity.until_free_s(now)

    def _doubt_old_predictions(self, now: float) -> None:
        """Keep a machine that refuses everything from believing for ever that it is slow: only runs tell it better."""
        if self._capacity.is_idle and not self._waiting and now - self._last_run_at > DOUBT_AFTER_S:
            self._latency.doubt()
            self._last_run_at = now

    def _too_late(
        self, request: Request, start_s: float, own_s: float, now: float, *, was_alone: bool
    ) -> Refusal:
        """Return why a request cannot be met that could start after so many seconds, and take as many from there."""
        self._doubt_old_predictions(now)
        allowed_s = request.deadline_at - request.arrived_at
        spent_s = now - request.arrived_at
        alone_s = self.idle_s(request.subnetwork) + (spent_s if was_alone else 0.0)
        if alone_s > allowed_s:
            return Refusal("impossible", alone_s, allowed_s, 0.0)
        drain_s = self._drain_s(now)
        ahead_s = start_s if isfinite(start_s) else drain_s
        return Refusal("overloaded", spent_s + ahead_s + own_s, allowed_s, drain_s)
