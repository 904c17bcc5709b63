"""PURE: which requests run next, in which subnetwork; which are shed or expire. Time is an argument.

The rules:

1. A request is due at ``deadline_at``; its run must end ``latency.reserve_s`` earlier, for the reply.
2. On arrival it is timely, late or shed: ``admission.py`` has that rule.
3. Timely requests run in the order of their deadlines (EDF), whatever model they ask; the policy chooses how many, and the
   subnetwork: ``policies.py``. A request that names its subnetwork runs in it, and one that wants better answers later
   runs first in the fastest; a batch is of neighbours in the queue of one model that ask for the same. No run but the
   shortest is so long that a request for another model, which waits or is expected, could not be met after it.
4. A waiting request that not even the fastest subnetwork can meet any more, or that the policy gives up so that more
   others are met, becomes late if there is time for that, and else expires.
5. Late requests run in the fastest subnetwork (or the one they name), in the order of ``late_until``, when no timely one
   waits. One that cannot be answered by ``late_until`` expires. So a late answer delays a timely one by no more than the
   run that is under way.
6. A request that asked for better answers is refined when nothing waits that has none: ``refinements.py``. The best answer
   it has is delivered when its deadline comes.

How an adapter drives it: ``admit`` each request as it arrives; then, and after each ``finished``, carry out
``next_action`` until it returns ``Wait``, and call again at ``Wait.until`` at the latest. ``observe`` of the model's
latency, ``observe_reply`` of the devices, and ``observe_overhead`` here, are told what was measured: how long a run took,
how long from its end to its replies, and the time a request costs, outside its run, the cores that also run it (zero
where runs are elsewhere). What fronts may know of the load, ``admission.publish`` says; those that they shed are told to
``admission.count_shed``.
After a run the adapter offers each request to ``refine``; what is not taken has its last answer. Every admitted request
leaves exactly once: in a ``Run`` after which it is not refined, in an ``Expire``, a ``Displace``, a ``Deliver``, or by
``cancel``.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import inf
from operator import attrgetter

from service.scheduling.admission import Admission
from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.forecast import Capacity, Forecast
from service.scheduling.latency import Devices
from service.scheduling.model import Model
from service.scheduling.policies import Choice, ExpireHead, Outlook
from service.scheduling.refinements import Refinements
from service.scheduling.requests import Action, Deliver, Expire, Request, Run, Shed, Wait

URGENT = 0.5  # of the time that the head has: arrivals with less are urgent
LOOK_AHEAD = 2.0  # times the longest slack: what comes in that time has to find time too
STEADY = 1.2  # times the time that each arrival can have: their rate is known no better


class Scheduler:
    """Earliest deadline first, in the subnetwork that the policy of the request's model chooses.

    Args:
        devices: what all models run on; they are told what replies took.
        models: those to begin with; ``add`` and ``remove`` change them.
        max_queue: the most requests that may wait for an answer, and for a better one.
        max_lateness: how late an answer may be, in deadlines.

    Attributes:
        admission: what may be asked before ``admit``.
    """

    def __init__(
        self,
        devices: Devices,
        models: Iterable[Model] = (),
        *,
        max_queue: int = 1024,
        max_lateness: float = 3.0,
    ) -> None:
        self.devices = devices
        self._models: list[Model] = []
        self._max_queue = max_queue
        self._forecast = Forecast()
        self._capacity = Capacity(devices, self._forecast)
        self.admission = Admission(
            self._models,
            devices,
            self._capacity,
            self._forecast,
            max_queue=max_queue,
            max_lateness=max_lateness,
        )
        self._refinements = Refinements(devices, self._capacity, self._forecast)
        self._places = _places(max_queue)
        self._due_at_places = [place + 1 for place in self._places]
        for model in models:
            self.add(model)

    def __len__(self) -> int:
        """Return how many requests wait for an answer."""
        return self.admission.waiting

    @property
    def models(self) -> Sequence[Model]:
        """The models, in the order of what ``admission`` publishes. Not to be changed."""
        return self._models

    def add(self, model: Model) -> None:
        """Take requests for one more model."""
        self._models.append(model)
        self._forecast.pace_s = self._forecast.pace_s or model.pace_s

    def remove(self, model: Model) -> None:
        """Take no more for a model, behind the last request for it."""
        self._models.remove(model)

    @property
    def refinable(self) -> int:
        """How many requests wait for a better answer."""
        return len(self._refinements)

    def admit(
        self, request: Request, now: float, *, model: Model | None = None, is_alone: bool = False
    ) -> Shed | None:
        """Accept a request, or say why not; see ``Admission.admit``."""
        return self.admission.admit(request, now, model=model, is_alone=is_alone)

    def observe_overhead(self, cost_s: float, deciding_s: float) -> None:
        """Learn what requests cost, outside their runs, the cores that run them; see ``Forecast.observe_overhead``."""
        self._forecast.observe_overhead(cost_s, deciding_s)

    def next_action(self, now: float) -> Action:
        """Return what to do now; call again until it is ``Wait``."""
        displaced = self.admission.displaced(now)
        if displaced:
            return displaced
        if due := self._refinements.due(now):
            return Deliver(due)
        device = self._capacity.free_device()
        expired: tuple[Request, ...] = ()
        for model in self._models:
            if model.queue.deadlines and (
                missed := self._count_missed(model, model.queue, now, device)
            ):
                expired += self._expire_head(model, missed, now)
            if model.late.deadlines:
                expired += model.late.take(self._count_missed(model, model.late, now, device))
        if expired:
            return Expire(expired)
        if device is None:
            return Wait(self._next_due_at())
        timely = [model for model in self._models if model.queue.deadlines]
        if timely:
            first = timely[0] if len(timely) == 1 else min(timely, key=_DUE_FIRST)
            return self._run_timely(first, timely, device, now)
        late = [model for model in self._models if model.late.deadlines]
        if late:
            return self._run_late(min(late, key=_LATE_FIRST), device, now)
        if self._refinements:
            return self._run_refinement(device, now)
        return Wait(self._next_due_at())

    def finished(self, run: Run, now: float) -> None:
        """Note that a run ended: its device is free."""
        self._capacity.end(run.device)
        self.admission.ran(now)

    def lose(self, device: int) -> None:
        """Give a device no more runs, and expect no end of the one that it has; at least one other serves."""
        self._capacity.lose(device)

    def refine(self, request: Request, answered_by: str, now: float) -> bool:
        """Keep a request that a run answered, for a better answer; False if this was its last."""
        if request.refine == "none":
            return False
        others = len(self._refinements) + sum(
            [each.waiting * self._weight(each.pace_s, request.model) for each in self._models]
        )
        has_place = len(self._refinements) < self._max_queue
        if not has_place or not self._refinements.step(request, answered_by, now, others=others):
            self._refinements.release(request)
            return False
        self._refinements.hold(request)
        request.answered_by = answered_by
        return True

    def accept_answer(self, request: Request) -> None:
        """Let a request go whose answer is good enough."""
        self._refinements.release(request)

    def clear(self, model: Model) -> tuple[Request, ...]:
        """Take out all that wait for a model."""
        return (
            *model.queue.take(len(model.queue)),
            *model.late.take(len(model.late)),
            *self._refinements.clear(model),
        )

    def cancel(self, request: Request) -> bool:
        """Remove a request whose client has gone; False if it no longer waits."""
        return (
            request.model.queue.remove(request)
            or request.model.late.remove(request)
            or self._refinements.release(request)
        )

    def _run_timely(self, model: Model, timely: Sequence[Model], device: int, now: float) -> Action:
        """Run the most urgent timely requests, which are for a model, as its policy chooses, or as they ask."""
        head, latency = model.queue.head, model.latency
        forced = head.subnetwork or (model.fastest.name if head.refine != "none" else None)
        runnable = model.queue.alike(model.max_batch)
        head_s = head.deadline_at - self.devices.reserve_s - now
        head_s = min(head_s, self._max_run_s(model, device, now))
        choice: Choice | ExpireHead
        if forced is None:
            outlook = self._outlook(model, timely, device, now, runnable, head_s)
            choice = model.policy.choose(outlook)
        else:
            size = latency.largest_batch(forced, runnable, head_s, device)
            choice = Choice(forced, max(size, 1))
        if isinstance(choice, ExpireHead):
            expired = self._expire_head(model, choice.head, now)
            return Expire(expired) if expired else self.next_action(now)
        return self._start(device, model.queue.take(choice.batch_size), choice.subnetwork, now)

    def _max_run_s(self, model: Model, device: int, now: float) -> float:
        """Return how long a run for a model may be, for the others' sake; one alone in the fastest subnetwork always may."""
        limit_s = inf
        if len(self._models) == 1:
            return limit_s
        for each in self._models:
            if each is not model:
                limit_s = min(limit_s, each.max_blocking_s(now))
                if each.queue:
                    limit_s = min(limit_s, _latest_start_at(each, each.queue) - now)
        return max(limit_s, model.latency.predict_s(model.fastest.name, 1, device))

    def _outlook(
        self,
        model: Model,
        timely: Sequence[Model],
        device: int,
        now: float,
        runnable: int,
        head_s: float,
    ) -> Outlook:
        """Return what the policy of a model may know."""
        end_at = now + self.devices.reserve_s
        outside_s = self._forecast.overhead_s / 2
        weight = self._weight(self._forecast.pace_s, model)  # of an arrival
        return Outlook(
            waiting=len(model.queue),
            runnable=runnable,
            head_s=head_s,
            missed_after=lambda run_s: model.queue.due_before(end_at + run_s),
            lost_during=lambda run_s: self._lost_during(run_s, model, now),
            share_s=self._least_share_s(model, timely, end_at, weight, now) - outside_s,
            steady_s=STEADY * (self._capacity.steady_s(now) / weight - outside_s),
            device=device,
        )

    def _lost_during(self, run_s: float, model: Model, now: float) -> float:
        """Return how many urgent arrivals to expect that a run for a model, of so many seconds, leaves no time."""
        urgent_s = URGENT * (model.queue.head.deadline_at - now)
        if self._forecast.shortest_s >= urgent_s:
            return 0.0
        alone_s, idle_s = model.least_s(), model.idle_s()
        return self._capacity.lost_during(
            run_s, now, alone_s=alone_s, idle_s=idle_s, urgent_s=urgent_s
        )

    def _least_share_s(
        self, model: Model, timely: Sequence[Model], end_at: float, weight: float, now: float
    ) -> float:
        """Return the least, over some instants, of the devices' time until then, shared by all that are due by then.

        The instants are those at which waiting requests are due. Where several wait there is one more, later: those to
        come are due after them, but wait for what runs now.
        """
        slacks_s, waiting = self._due(model, timely, end_at)
        if waiting[-1] > 1:
            slacks_s = [*slacks_s, LOOK_AHEAD * slacks_s[-1]]
            waiting = [*waiting, waiting[-1]]
        coming = self._forecast.coming_before(slacks_s, now)
        left_s = self._capacity.left_s(slacks_s, now)
        return min(
            [
                machine_s / (count + weight * more)
                for machine_s, count, more in zip(left_s, waiting, coming, strict=True)
            ]
        )

    def _due(
        self, model: Model, timely: Sequence[Model], end_at: float
    ) -> tuple[list[float], Sequence[float]]:
        """Return, for some of all deadlines, the seconds until then, and how many requests are due by then, by ``_weight``."""
        places = self._places
        if len(timely) == 1:
            deadlines = model.queue.deadlines
            looks = bisect_left(places, len(deadlines))
            slacks_s = [deadlines[place] - end_at for place in places[:looks]]
            return slacks_s, self._due_at_places[:looks]
        looked_at = sorted(
            each.queue.deadlines[place]
            for each in timely
            for place in places[: bisect_left(places, len(each.queue))]
        )
        due = [0.0] * len(looked_at)
        for each in timely:
            weight = self._weight(each.pace_s, model)
            for n, deadline_at in enumerate(looked_at):
                due[n] += weight * each.queue.place_of(deadline_at)
        return [deadline_at - end_at for deadline_at in looked_at], due

    def _weight(self, pace_s: float, model: Model) -> float:
        """Return as how many requests for a model one counts that takes so long: by what both cost, replies included."""
        if pace_s == model.pace_s:
            return 1.0
        slowdown, outside_s = self.devices.slowdown(), self._forecast.overhead_s / 2
        return (pace_s * slowdown + outside_s) / (model.pace_s * slowdown + outside_s)

    def _run_late(self, model: Model, device: int, now: float) -> Run:
        """Run the late requests for a model that go together, in a batch of the best size."""
        subnetwork = model.late.head.subnetwork or model.fastest.name
        alike, limit_s = (
            model.late.alike(model.fastest.best_size),
            self._max_run_s(model, device, now),
        )
        size = model.latency.largest_batch(subnetwork, alike, limit_s, device)
        return self._start(device, model.late.take(max(size, 1)), subnetwork, now)

    def _run_refinement(self, device: int, now: float) -> Run | Deliver:
        """Run the most urgent requests that have an answer and time for a better one, or deliver what they have."""
        head, others = self._refinements.head, len(self._refinements) - 1
        assert head.answered_by is not None
        limit_s = self._max_run_s(head.model, device, now)
        option = self._refinements.step(head, head.answered_by, now, others=others, limit_s=limit_s)
        if option is None:
            self._refinements.release(head)
            return Deliver((head,))
        return self._start(device, self._refinements.take(option, device, now), option.name, now)

    def _start(self, device: int, batch: tuple[Request, ...], subnetwork: str, now: float) -> Run:
        predicted_s = batch[0].model.latency.predict_s(subnetwork, len(batch), device)
        self._capacity.begin(device, now + predicted_s)
        return Run(device, batch, subnetwork, predicted_s)

    def _count_missed(
        self, model: Model, queue: DeadlineQueue, now: float, device: int | None
    ) -> int:
        """Return how many of the most urgent requests of a model's queue can no longer be met.

        One that can still be met if it starts at this very instant is, where a device is free.
        """
        count = 0
        for request in queue:
            spare_s = queue.due_at(request) - model.least_s(request.subnetwork) - now
            if spare_s > 0 or (spare_s == 0 and device is not None):
                break
            count += 1
        return count

    def _expire_head(self, model: Model, count: int, now: float) -> tuple[Request, ...]:
        """Take out a model's most urgent timely requests; those that there is time to answer late become late, the others return."""
        expired: list[Request] = []
        for request in model.queue.take(count):
            chance = self.admission.chance(request, now)
            if (
                request.on_miss == "answer"
                and chance.late_start_at + chance.run_s <= request.late_until
            ):
                model.late.add(request)
            else:
                expired.append(request)
        return tuple(expired)

    def _next_due_at(self) -> float | None:
        """Return when a request expires, or the best answer so far is to be delivered."""
        due_at = [
            _latest_start_at(model, queue)
            for model in self._models
            for queue in (model.queue, model.late)
            if queue
        ]
        delivery_at = self._refinements.next_delivery_at
        if delivery_at is not None:
            due_at.append(delivery_at)
        return min(due_at, default=None)


_DUE_FIRST = attrgetter("queue.head.deadline_at")
_LATE_FIRST = attrgetter("late.head.late_until")


def _latest_start_at(model: Model, queue: DeadlineQueue) -> float:
    """Return the last instant at which a run of its own would still meet the head of a model's queue."""
    head = queue.head
    return queue.due_at(head) - model.least_s(head.subnetwork)


def _places(most: int) -> Sequence[int]:
    """Return the places in a queue whose deadlines a decision looks at: the first 8, then each 15 % further.

    The share so found is at most 15 % too large, and the next decision looks again.
    """
    places = list(range(min(8, most)))
    while places[-1] < most - 1:
        places.append(min(int(places[-1] * 1.15) + 1, most - 1))
    return places
