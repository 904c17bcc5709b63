"""PURE: which requests are let in, which are shed and why.

1. A request is *timely* if its run can start, behind those due before it, early enough for its reply to be in time. All
   run as fast as can be; a deadline that has gone by is work no longer.
2. One that is not, but takes a late answer (``on_miss="answer"``), is *late*: it is let in if its run can start, behind all
   others and in the time that arrivals leave, while its answer is of use (``late_until``).
3. Any other is shed. In a full queue the least urgent request gives way to a timely one that is more urgent; a late one
   gives way first.
"""

from collections.abc import Sequence
from math import inf

from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.forecast import Capacity, Forecast
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Option
from service.scheduling.published import STEPS, Chance, Published, late_until
from service.scheduling.requests import Displace, Request, Shed

DOUBT_AFTER_S = 0.1  # without a run, on an idle machine that sheds


class Admission:
    """The way into the queues.

    Args:
        queue: of the timely requests.
        late: of those that get a late answer, by ``late_until``.
        latency: predicted run latencies.
        capacity: the machine's time.
        forecast: is told of every arrival.
        fastest: what those run in that could not be met otherwise.
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
        self._last_run_at = -inf
        self._fastest_place = latency.subnetworks.index(fastest.name)
        self._idle_reserve_s = -1.0
        self._idle: tuple[float, ...] = ()

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        return len(self._queue) + len(self._late)

    def ran(self, now: float) -> None:
        """Note that a run ended."""
        self._last_run_at = now

    def admit(self, request: Request, now: float, *, is_alone: bool = False) -> Shed | None:
        """Let a request in, or say why not.

        Args:
            request: it has come and was decoded.
            now: seconds.
            is_alone: whether no other request took time from it since it arrived.
        """
        self._forecast.arrived(now, request.deadline_at - now)
        chance = self.chance(request.deadline_at, request.subnetwork, now)
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
            victims = self._late or self._queue
            self._displaced.append(victims.take_last())
        (self._queue if verdict == "timely" else self._late).add(request)
        return None

    def count_shed(self, now: float, deadline_s: float) -> None:
        """Count an arrival that a front shed."""
        self._forecast.arrived(now, deadline_s)
        self._doubt_old_predictions(now)

    def chance(self, deadline_at: float, subnetwork: str | None, now: float) -> Chance:
        """Return what a request can expect that comes now."""
        free_at, pace_s, drain_s = self._backlog(now)
        return Chance(
            start_at=self._start_at(self._queue.place_of(deadline_at), free_at, pace_s),
            late_start_at=now + drain_s / self._capacity.idle_fraction(now),
            run_s=self.least_s(subnetwork),
            idle_s=self.idle_s(subnetwork),
            drain_s=drain_s,
        )

    def least_s(self, subnetwork: str | None = None) -> float:
        """Return how long before its deadline the run of a request must start, if it runs alone: in this subnetwork, or any."""
        name, device = subnetwork or self._fastest.name, self._capacity.fastest_device
        return self._latency.predict_s(name, 1, device) + self._latency.reserve_s

    def idle_s(self, subnetwork: str | None = None) -> float:
        """Return the shortest deadline that an idle machine meets, in this subnetwork or any."""
        name = subnetwork or self._fastest.name
        return self._latency.profile_s(name, 1) + self._latency.idle_reserve_s

    def displaced(self, now: float) -> Displace | None:
        """Return those whose places were taken since the last call, if there are any."""
        if not self._displaced:
            return None
        taken, self._displaced = tuple(self._displaced), []
        _, _, drain_s = self._backlog(now)
        return Displace(taken, self._queue_full(drain_s))

    def publish(self, now: float) -> Published:
        """Return what fronts may know of the load."""
        places = _spread(len(self._queue))
        latency = self._latency
        run_s = [
            each + latency.reserve_s for each in latency.alone_s(self._capacity.fastest_device)
        ]
        padding = (inf,) * (STEPS - len(places))
        free_at, pace_s, drain_s = self._backlog(now)
        return Published(
            due_at=(*(self._queue.deadlines[place] for place in places), *padding),
            # Of the requests between two deadlines all are taken to be due after a new one.
            start_at=(
                free_at,
                *(self._start_at(place + 1, free_at, pace_s) for place in places),
                *padding,
            ),
            pace_s=self._capacity.unread_pace_s(now),
            late_start_at=now + drain_s / self._capacity.idle_fraction(now),
            drained_at=now + drain_s,
            places=self._max_queue - self.waiting,
            max_queue=self._max_queue,
            last_due_at=self._last_due_at,
            max_lateness=self._max_lateness,
            run_s=(run_s[self._fastest_place], *run_s),
            idle_s=self._idle_s(),
        )

    def _idle_s(self) -> tuple[float, ...]:
        """Return ``idle_s`` of any subnetwork, then of each; it changes with the reserve alone."""
        reserve_s = self._latency.idle_reserve_s
        if reserve_s != self._idle_reserve_s:
            self._idle_reserve_s = reserve_s
            self._idle = tuple(map(self.idle_s, (None, *self._latency.subnetworks)))
        return self._idle

    @property
    def _last_due_at(self) -> float:
        """The deadline that a request must be due before to take another's place."""
        if self._late:
            return inf
        return self._queue.last.deadline_at if self._queue else -inf

    def _start_at(self, place: int, free_at: float, pace_s: float) -> float:
        """Return when a request could start behind so many that wait: once they are done, or no longer can be."""
        if not place:
            return free_at
        hopeless_at = self._queue.deadlines[place - 1] - self._latency.reserve_s
        return max(free_at, min(free_at + place * pace_s, hopeless_at))

    def _backlog(self, now: float) -> tuple[float, float, float]:
        """Return when a device is free, the least seconds a request takes, and those until all that wait should be done."""
        until_free_s, pace_s = self._capacity.until_free_s(now), self._capacity.pace_s(now)
        return now + until_free_s, pace_s, self.waiting * pace_s + until_free_s

    def _queue_full(self, drain_s: float) -> Shed:
        return Shed("queue_full", 0.0, self._max_queue, drain_s)

    def _doubt_old_predictions(self, now: float) -> None:
        """Keep a machine that sheds everything from believing for ever that it is slow: only runs tell it better."""
        if self._capacity.is_idle and not self.waiting and now - self._last_run_at > DOUBT_AFTER_S:
            self._latency.doubt()
            self._last_run_at = now


def _spread(count: int) -> Sequence[int]:
    """Return the places, ascending and at most STEPS, of the requests whose deadlines stand for those of ``count``."""
    if count <= STEPS:
        return range(count)
    return [step * (count - 1) // (STEPS - 1) for step in range(STEPS)]
