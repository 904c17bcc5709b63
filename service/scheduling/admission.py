"""PURE: which requests are let in, which are shed and why, and what is known of that before a request is decoded.

A request is *timely* if it can be answered by its deadline behind those due before it. One that cannot, but wants a late
answer (``on_miss="answer"``), is let in only if the load leaves time for that answer while it is of use; see
``Admission.late_until``.
"""

from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from service.scheduling.capacity import Capacity
from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.forecast import Forecast
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Option
from service.scheduling.published import STEPS, Published, late_until, padded, spread
from service.scheduling.requests import STAGED, Displace, OnMiss, Request, Shed

DOUBT_AFTER_S = 0.1  # without a run, on an idle machine that refuses


class Admission:
    """The way into the queues.

    Args:
        queue: of the requests that can be met.
        late: of those that get a late answer, by ``late_until``.
        latency: predicted run latencies.
        capacity: the machine's time.
        forecast: is told of every arrival.
        fastest: what those run in that would otherwise be lost.
        max_queue: the most requests that may wait.
        max_lateness: how late an answer may be, in deadlines.
    """

    def __init__(
        self,
        queue: DeadlineQueue,
        late: DeadlineQueue,
        latency: LatencyModel,
        capacity: Capacity,
        forecast: Forecast,
        *,
        fastest: Option,
        max_queue: int,
        max_lateness: float,
    ) -> None:
        self._queue = queue
        self._late = late
        self._latency = latency
        self._capacity = capacity
        self._forecast = forecast
        self._fastest = fastest
        self._max_queue = max_queue
        self._max_lateness = max_lateness
        self._displaced: list[Request] = []
        self._counts = np.arange(1.0, max_queue + 1.0)
        self._last_run_at = -inf

    @property
    def _waiting(self) -> int:
        return len(self._queue) + len(self._late)

    def ran(self, now: float) -> None:
        """Note that a run ended."""
        self._last_run_at = now

    def late_until(
        self, arrived_at: float, deadline_s: float, on_miss: OnMiss, subnetwork: str | None = None
    ) -> float:
        """Return until when an answer is of use: until the deadline, or some deadlines longer if it may be late."""
        return late_until(
            arrived_at,
            deadline_s,
            on_miss,
            idle_s=self.idle_s(subnetwork),
            max_lateness=self._max_lateness,
        )

    def admit(self, request: Request, now: float, *, was_alone: bool = False) -> Shed | None:
        """Let a request in, or say why not. A full queue sheds the least urgent request for a more urgent one.

        Args:
            request: it has come and was decoded.
            now: seconds.
            was_alone: whether all the time since its arrival went to itself.
        """
        self._count_arrival(request, now, is_staged=request.refine in STAGED)
        found = self._queue_for(request, now, was_alone=was_alone)
        if isinstance(found, Shed):
            return found
        if self._waiting >= self._max_queue:
            if not self._is_displaceable_by(request.deadline_at) or found is self._late:
                return self.queue_full(0, now)
            victims = self._late or self._queue
            self._displaced.append(victims.last)
            victims.remove(victims.last)
        found.add(request)
        return None

    def check_before_decode(
        self, request: Request, now: float, *, was_alone: bool = False
    ) -> Shed | None:
        """Say why a request would be shed although its image took no time to decode, if it would: it need not be decoded.

        Args:
            request, now, was_alone: as of ``admit``, which is not to be called for those refused here.
        """
        found = self._queue_for(request, now, was_alone=was_alone)
        if not isinstance(found, Shed):
            return None
        self._count_arrival(request, now)
        return found

    def would_miss_deadline(
        self, deadline_at: float, late_until: float, unread: int, now: float
    ) -> bool:
        """Say whether a request is lost behind those due before it and so many others that were read, and wait to be decoded.

        Args:
            deadline_at: when its answer is due.
            late_until: when it is of no use any more.
            unread: requests before it that are still to come here.
            now: seconds.
        """
        own_s = self.least_s()
        before_s = self._capacity.until_free_s(now) + self._capacity.unread_s(unread, now)
        before_s += self._queue.place_of(deadline_at) * self._capacity.pace_s(now)
        if now + before_s + own_s <= deadline_at:
            return False
        return now + self._late_start_s(now, unread) + own_s > late_until

    def would_be_full(self, deadline_at: float, unread: int) -> bool:
        """Say whether a request finds no place behind so many others that are still to come here."""
        if unread >= self._max_queue:
            return True
        is_full = unread + self._waiting >= self._max_queue
        return is_full and not self._is_displaceable_by(deadline_at)

    def has_time_to_be_late(self, request: Request, now: float) -> bool:
        """Say whether a request takes a late answer, and the load leaves time for one while it is of use."""
        late_s = self._late_start_s(now) + self.least_s(request.subnetwork)
        return request.on_miss == "answer" and now + late_s <= request.late_until

    def queue_full(self, unread: int, now: float) -> Shed:
        """Return what those are told that find no place, with so many requests that are still to come here."""
        return Shed("queue_full", 0.0, self._max_queue, self._backlog_s(unread, now))

    def count_shed(self, now: float, deadline_s: float) -> None:
        """Count an arrival that was shed before it came here."""
        self._forecast.arrived(now, deadline_s)

    def least_s(self, subnetwork: str | None = None) -> float:
        """Return how long before its deadline the run of a request must start, if it runs alone: in this subnetwork, or any."""
        name = subnetwork or self._fastest.name
        return self._latency.predict_s(name, 1) + self._latency.reserve_s

    def idle_s(self, subnetwork: str | None = None) -> float:
        """Return the shortest deadline that an idle machine meets, in this subnetwork or any."""
        name = subnetwork or self._fastest.name
        return self._latency.profile_s(name, 1) + self._latency.idle_reserve_s

    def displaced(self, now: float) -> Displace | None:
        """Return those whose places were taken since the last call, if there are any."""
        if not self._displaced:
            return None
        taken, self._displaced = tuple(self._displaced), []
        return Displace(taken, self.queue_full(0, now))

    def publish(self, now: float) -> Published:
        """Return what fronts may know of the load: see ``Published``."""
        names = (None, *self._latency.subnetworks)
        due_at, start_at = self._start_steps(now)
        return Published(
            padded(due_at, STEPS),
            padded(start_at, STEPS + 1),
            self._capacity.pace_s(now),
            now + self._late_start_s(now),
            now + self._drain_s(now),
            self._max_queue - self._waiting,
            self._max_queue,
            inf if self._late else self._queue.last.deadline_at if self._queue else -inf,
            self._max_lateness,
            tuple(self.least_s(name) for name in names),
            tuple(self.idle_s(name) for name in names),
        )

    def _start_steps(self, now: float) -> tuple[list[float], list[float]]:
        """Return some deadlines of those that wait, and when a new request could start that is due between two of them.

        No later than it will be found on arrival: of those between two deadlines all are taken to be due after it.
        """
        free_at = now + self._capacity.until_free_s(now)
        if not self._queue:
            return [], [free_at]
        slack_s = self._queue.slack_s(free_at + self._latency.reserve_s)
        lost = int(slack_s.searchsorted(self._latency.predict_s(self._fastest.name, 1)))
        pace_s = self._capacity.pace_s(now)
        spare_s = self._spare_s(slack_s[lost:], pace_s)
        if not len(spare_s):
            return [], [free_at]
        least_before = np.minimum.accumulate(spare_s)
        least_after = np.minimum.accumulate(spare_s[::-1])[::-1]
        places = spread(len(spare_s))
        start_at = [free_at if least_after[0] >= pace_s else inf]
        for step, place in enumerate(places):
            after = places[step + 1] if step + 1 < len(places) else len(spare_s)
            if after < len(spare_s) and least_after[after] < pace_s:
                start_at.append(inf)
            else:
                before_s = (place + 1) * pace_s + min(float(least_before[place]), 0.0)
                start_at.append(free_at + max(before_s, 0.0))
        return [self._queue.due_at_place(lost + place) for place in places], start_at

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

    def _queue_for(self, request: Request, now: float, *, was_alone: bool) -> DeadlineQueue | Shed:
        """Return where a request is to wait, or why it is shed."""
        allowed_s = request.deadline_at - request.arrived_at
        request.late_until = self.late_until(
            request.arrived_at, allowed_s, request.on_miss, request.subnetwork
        )
        name = request.subnetwork or self._fastest.name
        own_s = self._latency.predict_s(name, self._company(request)) + self._latency.reserve_s
        start_s = self._start_s(request, now)
        if now + start_s + own_s <= request.deadline_at:
            return self._queue
        if self.has_time_to_be_late(request, now):
            return self._late
        return self._too_late(request, start_s, own_s, now, was_alone=was_alone)

    def _start_s(self, request: Request, now: float) -> float:
        """Return when a new request could start, in seconds from now; never, if only in another's place."""
        start_s = self._capacity.until_free_s(now)
        if not self._queue:
            return start_s
        slack_s = self._queue.slack_s(now + self._latency.reserve_s + start_s)
        lost = int(slack_s.searchsorted(self._latency.predict_s(self._fastest.name, 1)))
        place = max(self._queue.place_of(request.deadline_at) - lost, 0)
        pace_s = self._capacity.pace_s(now)
        spare_s = self._spare_s(slack_s[lost:], pace_s)
        if place < len(spare_s) and spare_s[place:].min() < pace_s:
            return inf
        if place:  # of those before it, some may be lost behind others and take no time
            before_s = place * pace_s + min(float(spare_s[:place].min()), 0.0)
            start_s += max(before_s, 0.0)
        return start_s

    def _spare_s(self, slack_s: NDArray[np.float64], pace_s: float) -> NDArray[np.float64]:
        """Return (n,) how long each request's run could be put off, were all run as fast as can be."""
        return slack_s - self._counts[: len(slack_s)] * pace_s

    def _late_start_s(self, now: float, unread: int = 0) -> float:
        """Return when a late answer's run could start, behind all other work and in time that no arrival needs."""
        return self._backlog_s(unread, now) / self._capacity.idle_fraction(now)

    def _company(self, request: Request) -> int:
        """Return the size of the batch a new request will run in, were all run as fast as can be."""
        if request.subnetwork is not None:
            return 1
        return min(len(self._queue) + 1, self._fastest.best_size)

    def _drain_s(self, now: float) -> float:
        """Return when the requests that wait should be done, in seconds from now."""
        return self._waiting * self._capacity.pace_s(now) + self._capacity.until_free_s(now)

    def _backlog_s(self, unread: int, now: float) -> float:
        """Return how long the work lasts that was accepted, and that of so many requests that are still to come here."""
        return self._drain_s(now) + self._capacity.unread_s(unread, now)

    def _is_displaceable_by(self, deadline_at: float) -> bool:
        """Say whether one that waits is less urgent than a new request with this deadline."""
        return bool(self._late) or (
            bool(self._queue) and self._queue.last.deadline_at > deadline_at
        )

    def _doubt_old_predictions(self, now: float) -> None:
        """Keep a machine that refuses everything from believing for ever that it is slow: only runs tell it better."""
        if self._capacity.is_idle and not self._waiting and now - self._last_run_at > DOUBT_AFTER_S:
            self._latency.doubt()
            self._last_run_at = now

    def _too_late(
        self, request: Request, start_s: float, own_s: float, now: float, *, was_alone: bool
    ) -> Shed:
        """Return why a request cannot be met that could start after so many seconds, and take as many from there."""
        self._doubt_old_predictions(now)
        allowed_s = request.deadline_at - request.arrived_at
        spent_s = now - request.arrived_at
        alone_s = self.idle_s(request.subnetwork) + (spent_s if was_alone else 0.0)
        if alone_s > allowed_s:
            return Shed("impossible", alone_s, allowed_s, 0.0)
        drain_s = self._drain_s(now)
        ahead_s = start_s if isfinite(start_s) else drain_s
        return Shed("overloaded", spent_s + ahead_s + own_s, allowed_s, drain_s)
