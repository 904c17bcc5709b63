"""PURE: which requests are let in, which are shed and why.

1. A request is *timely* if its run can start, behind those due before it, early enough for its reply to be in time. All,
   of whatever model, run as fast as can be; a deadline that has gone by is work no longer.
2. One that is not, but takes a late answer (``on_miss="answer"``), is *late*: it is let in if its run can start, behind all
   others and in the time that arrivals leave, while its answer is of use (``late_until``).
3. Any other is shed. In a full queue the least urgent request gives way to a timely one that is more urgent; a late one
   gives way first.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from math import inf

from service.scheduling.forecast import Capacity, Forecast
from service.scheduling.latency import Devices
from service.scheduling.model import Model
from service.scheduling.published import STEPS, Chance, Published, late_until
from service.scheduling.requests import Displace, Request, Shed

DOUBT_AFTER_S = 0.1  # without a run, on an idle machine that sheds

# What waits in time, by model: the deadlines, ascending, and the least seconds that pass while one of them is answered.
Ahead = Sequence[tuple[Sequence[float], float]]


class Admission:
    """The way into the queues.

    Args:
        models: with the requests that wait; the list may change.
        devices: what they run on.
        capacity: the machine's time.
        forecast: is told of every arrival.
        max_queue: the most requests that may wait.
        max_lateness: how late an answer may be, in deadlines.
    """

    def __init__(
        self,
        models: Sequence[Model],
        devices: Devices,
        capacity: Capacity,
        forecast: Forecast,
        *,
        max_queue: int,
        max_lateness: float,
    ) -> None:
        self._models = models
        self._devices = devices
        self._capacity = capacity
        self._forecast = forecast
        self._max_queue = max_queue
        self._max_lateness = max_lateness
        self._displaced: list[Request] = []
        self._last_run_at = -inf

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        waiting = 0
        for model in self._models:
            waiting += model.waiting
        return waiting

    def ran(self, now: float) -> None:
        """Note that a run ended."""
        self._last_run_at = now

    def admit(
        self, request: Request, now: float, *, model: Model | None = None, is_alone: bool = False
    ) -> Shed | None:
        """Let a request in, or say why not.

        Args:
            request: it has come and was decoded.
            now: seconds.
            model: what is to answer it; None stands for the first.
            is_alone: whether no other request took time from it since it arrived.
        """
        request.model = model = model or self._models[0]
        self._forecast.arrived(now, request.deadline_at - now, model.pace_s)
        chance = self.chance(request, now)
        model.arrived(now, request.deadline_at - now - chance.run_s)
        request.late_until = late_until(
            request.arrived_at,
            request.deadline_at - request.arrived_at,
            request.on_miss,
            idle_s=chance.idle_s,
            max_lateness=self._max_lateness,
        )
        verdict = chance.verdict(
            request.arrived_at, request.deadline_at, request.late_until, now, is_alone=is_alone
        )
        if isinstance(verdict, Shed):
            self._doubt_old_predictions(now)
            return verdict
        if self.waiting >= self._max_queue:
            if verdict == "late" or request.deadline_at >= self._last_due_at:
                return self._queue_full(chance.drain_s)
            self._displaced.append(self._take_least_urgent())
        (model.queue if verdict == "timely" else model.late).add(request)
        return None

    def count_shed(self, now: float, deadline_s: float) -> None:
        """Count an arrival that a front shed."""
        self._forecast.arrived(now, deadline_s)
        self._doubt_old_predictions(now)

    def chance(self, request: Request, now: float) -> Chance:
        """Return what a request can expect that comes now."""
        free_at, ahead, drain_s = self._backlog(now)
        model, subnetwork = request.model, request.subnetwork
        return Chance(
            start_at=self._start_at(request.deadline_at, free_at, ahead),
            late_start_at=self._late_start_at(now, drain_s),
            run_s=model.least_s(subnetwork),
            idle_s=model.idle_s(subnetwork),
            drain_s=drain_s,
        )

    def displaced(self, now: float) -> Displace | None:
        """Return those whose places were taken since the last call, if there are any."""
        if not self._displaced:
            return None
        taken, self._displaced = tuple(self._displaced), []
        return Displace(taken, self._queue_full(self._backlog(now)[-1]))

    def publish(self, now: float) -> list[Published]:
        """Return what fronts may know of the load, for each model in its order."""
        deadlines = self._deadlines()
        due_at = [deadlines[place] for place in _spread(len(deadlines))]
        padding = (inf,) * (STEPS - len(due_at))
        free_at, ahead, drain_s = self._backlog(now)
        common = (
            (*due_at, *padding),
            # Of the requests between two deadlines all are taken to be due after a new one.
            (free_at, *[self._start_at(each, free_at, ahead) for each in due_at], *padding),
            self._capacity.unread_pace_s(now),
            self._late_start_at(now, drain_s),
            now + drain_s,
            self._max_queue - self.waiting,
            self._max_queue,
            self._last_due_at,
            self._max_lateness,
        )
        return [
            Published(*common, run_s=model.runs_s(), idle_s=model.idles_s())
            for model in self._models
        ]

    @property
    def _last_due_at(self) -> float:
        """The deadline that a request must be due before to take another's place."""
        last_due_at = -inf
        for model in self._models:
            if model.late.deadlines:
                return inf
            if model.queue.deadlines:
                last_due_at = max(last_due_at, model.queue.deadlines[-1])
        return last_due_at

    def _take_least_urgent(self) -> Request:
        """Take out the request that gives way in a full queue."""
        late = [each.late for each in self._models if each.late]
        victims = late or [each.queue for each in self._models if each.queue]
        return max(victims, key=lambda each: each.deadlines[-1]).take_last()

    def _deadlines(self) -> Sequence[float]:
        """Return the deadlines of all timely requests, ascending."""
        queues = [each.queue.deadlines for each in self._models if each.queue.deadlines]
        return queues[0] if len(queues) == 1 else sorted(chain.from_iterable(queues))

    def _start_at(self, deadline_at: float, free_at: float, ahead: Ahead) -> float:
        """Return when a request could start behind those due before it: once they are done, or no longer can be."""
        done_at, last_due_at = free_at, -inf
        for deadlines, pace_s in ahead:
            place = bisect_right(deadlines, deadline_at)
            if place:
                done_at += place * pace_s
                if deadlines[place - 1] > last_due_at:
                    last_due_at = deadlines[place - 1]
        return max(free_at, min(done_at, self._hopeless_at(last_due_at)))

    def _hopeless_at(self, due_at: float) -> float:
        """Return when a request that waits is work no longer: nothing ends before its deadline any more."""
        return due_at - self._devices.reserve_s

    def _backlog(self, now: float) -> tuple[float, Ahead, float]:
        """Return when a device is free, what waits in time, and the seconds until all that waits should be done."""
        until_free_s = drain_s = self._capacity.until_free_s(now)
        ahead = []
        if waited_for := [each for each in self._models if each.waiting]:
            paces_s = self._capacity.paces_s([each.pace_s for each in waited_for], now)
            for model, pace_s in zip(waited_for, paces_s, strict=True):
                ahead.append((model.queue.deadlines, pace_s))
                drain_s += model.waiting * pace_s
        return now + until_free_s, ahead, drain_s

    def _late_start_at(self, now: float, drain_s: float) -> float:
        """Return when a late answer could start: behind all others, in the time that arrivals leave."""
        return now + drain_s / self._capacity.idle_fraction(now) if drain_s else now

    def _queue_full(self, drain_s: float) -> Shed:
        return Shed("queue_full", 0.0, self._max_queue, drain_s)

    def _doubt_old_predictions(self, now: float) -> None:
        """Keep a machine that sheds everything from believing for ever that it is slow: only runs tell it better."""
        if self._capacity.is_idle and not self.waiting and now - self._last_run_at > DOUBT_AFTER_S:
            self._devices.doubt()
            for model in self._models:
                model.latency.doubt()
            self._last_run_at = now


def _spread(count: int) -> Sequence[int]:
    """Return the places, ascending and at most STEPS, of the requests whose deadlines stand for those of ``count``."""
    if count <= STEPS:
        return range(count)
    return [step * (count - 1) // (STEPS - 1) for step in range(STEPS)]
