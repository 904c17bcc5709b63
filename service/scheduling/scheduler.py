"""PURE: which requests run next, in which subnetwork; which are shed or expire. Time is an argument.

The rules:

1. A request is due at ``deadline_at``; its run must end ``latency.reserve_s`` earlier, for the reply.
2. On arrival it is timely, late or shed: ``admission.py`` has that rule.
3. Timely requests run in the order of their deadlines (EDF); the policy chooses how many, and the subnetwork:
   ``policies.py``. A request that names its subnetwork runs in it, and one that wants better answers later runs first in
   the fastest; a batch is of neighbours in the queue that ask for the same.
4. A waiting request that not even the fastest subnetwork can meet any more, or that the policy gives up so that more
   others are met, becomes late if there is time for that, and else expires.
5. Late requests run in the fastest subnetwork (or the one they name), in the order of ``late_until``, when no timely one
   waits. One that cannot be answered by ``late_until`` expires. So a late answer delays a timely one by no more than the
   run that is under way.
6. A request that asked for better answers is refined when nothing waits that has none: ``refinements.py``. The best answer
   it has is delivered when its deadline comes.

How an adapter drives it: ``admit`` each request as it arrives; then, and after each ``finished``, carry out
``next_action`` until it returns ``Wait``, and call again at ``Wait.until`` at the latest. ``observe`` and
``observe_reply`` of the latency model, and ``observe_overhead`` here, are told what was measured: how long a run took,
how long from its end to its replies, and the time a request costs, outside its run, the cores that also run it (zero
where runs are elsewhere). What fronts may know of the load, ``admission.publish`` says; those that they shed are told to
``admission.count_shed``.
After a run the adapter offers each request to ``refine``; what is not taken has its last answer. Every admitted request
leaves exactly once: in a ``Run`` after which it is not refined, in an ``Expire``, a ``Displace``, a ``Deliver``, or by
``cancel``.
"""

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from service.scheduling.admission import Admission
from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.forecast import Capacity, Forecast
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Candidate, Choice, ExpireHead, Outlook, policy_named
from service.scheduling.refinements import Refinements
from service.scheduling.requests import Action, Deliver, Expire, Request, Run, Shed, Wait


class Scheduler:
    """Earliest deadline first, in the subnetwork that the policy chooses.

    Args:
        subnetworks: all that may be run; the policy chooses from those on the accuracy/latency front.
        latency: predicted run latencies; it also says how many devices there are.
        policy: ``anytime``, ``slackfit`` or ``static:<subnetwork>``.
        max_queue: the most requests that may wait for an answer, and for a better one.
        max_batch: the most requests in one run.
        max_lateness: how late an answer may be, in deadlines.

    Attributes:
        admission: what may be asked before ``admit``.

    Raises:
        ValueError: no such policy.
    """

    def __init__(
        self,
        subnetworks: Sequence[Candidate],
        latency: LatencyModel,
        *,
        policy: str = "anytime",
        max_queue: int = 1024,
        max_batch: int = 16,
        max_lateness: float = 3.0,
    ) -> None:
        self._latency = latency
        self._policy = policy_named(policy, subnetworks, latency, max_batch=max_batch)
        self._fastest = self._policy.options[0]
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._forecast = Forecast()
        self._capacity = Capacity(latency, self._forecast, self._fastest.pace_s)
        self._queue = DeadlineQueue()
        self._late = DeadlineQueue(attrgetter("late_until"))
        self.admission = Admission(
            self._queue,
            self._late,
            latency,
            self._capacity,
            self._forecast,
            fastest=self._fastest,
            max_queue=max_queue,
            max_lateness=max_lateness,
        )
        self._refinements = Refinements(
            self._policy.options,
            {each.name: each.accuracy for each in subnetworks},
            latency,
            self._capacity,
            self._forecast,
            max_batch=max_batch,
        )
        self._places = _places(max_queue)

    def __len__(self) -> int:
        """Return how many requests wait for an answer."""
        return self.admission.waiting

    @property
    def refinable(self) -> int:
        """How many requests wait for a better answer."""
        return len(self._refinements)

    def admit(self, request: Request, now: float, *, is_alone: bool = False) -> Shed | None:
        """Accept a request, or say why not; see ``Admission.admit``."""
        return self.admission.admit(request, now, is_alone=is_alone)

    def observe_overhead(self, cost_s: float, deciding_s: float) -> None:
        """Learn what requests cost, outside their runs, the cores that run them; see ``Forecast.observe_overhead``."""
        self._forecast.observe_overhead(cost_s, deciding_s)

    def next_action(self, now: float) -> Action:
        """Return what to do now; call again until it is ``Wait``."""
        displaced = self.admission.displaced(now)
        if displaced:
            return displaced
        due = self._refinements.due(now)
        if due:
            return Deliver(due)
        device = self._capacity.free_device()
        expired = self._expire_head(self._count_missed(self._queue, now, device), now)
        expired += self._late.take(self._count_missed(self._late, now, device))
        if expired:
            return Expire(expired)
        if device is None:
            return Wait(self._next_due_at())
        if self._queue:
            return self._run_timely(device, now)
        if self._late:
            return self._run_late(device, now)
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
        others = len(self) + len(self._refinements)
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

    def clear(self) -> tuple[Request, ...]:
        """Take out all that wait."""
        return (
            *self._queue.take(len(self._queue)),
            *self._late.take(len(self._late)),
            *self._refinements.clear(),
        )

    def cancel(self, request: Request) -> bool:
        """Remove a request whose client has gone; False if it no longer waits."""
        return (
            self._queue.remove(request)
            or self._late.remove(request)
            or self._refinements.release(request)
        )

    def _run_timely(self, device: int, now: float) -> Action:
        """Run the most urgent timely requests as the policy chooses, or as they ask."""
        head = self._queue.head
        forced = head.subnetwork or (self._fastest.name if head.refine != "none" else None)
        runnable = self._queue.alike(self._max_batch)
        head_s = head.deadline_at - self._latency.reserve_s - now
        choice: Choice | ExpireHead
        if forced is None:
            choice = self._policy.choose(self._outlook(device, now, runnable, head_s))
        else:
            size = self._latency.largest_batch(forced, runnable, head_s, device)
            choice = Choice(forced, max(size, 1))
        if isinstance(choice, ExpireHead):
            expired = self._expire_head(choice.head, now)
            return Expire(expired) if expired else self.next_action(now)
        return self._start(device, self._queue.take(choice.batch_size), choice.subnetwork, now)

    def _outlook(self, device: int, now: float, runnable: int, head_s: float) -> Outlook:
        """Return what the policy may know."""
        end_at = now + self._latency.reserve_s
        outside_s, rate = self._forecast.overhead_s / 2, self._forecast.rate(now)
        return Outlook(
            waiting=len(self._queue),
            runnable=runnable,
            head_s=head_s,
            missed_after=lambda run_s: self._queue.due_before(end_at + run_s),
            share_s=self._least_share_s(end_at, rate, now) - outside_s,
            outside_s=outside_s,
            rate=rate,
            devices=self._capacity.devices,
            device=device,
        )

    def _least_share_s(self, end_at: float, rate: float, now: float) -> float:
        """Return the least, over the waiting requests, of the devices' time until one is due, shared by all due by then."""
        deadlines = self._queue.deadlines
        places = self._places[: bisect_left(self._places, len(deadlines))]
        slacks_s = [deadlines[place] - end_at for place in places]
        overtaking_s = self._forecast.overtaking_s(slacks_s)
        return min(
            machine_s / (place + 1 + rate * before_s)
            for machine_s, place, before_s in zip(
                self._capacity.left_s(slacks_s, now), places, overtaking_s, strict=True
            )
        )

    def _run_late(self, device: int, now: float) -> Run:
        """Run the late requests that go together, in a batch of the best size."""
        subnetwork = self._late.head.subnetwork or self._fastest.name
        batch = self._late.take(self._late.alike(self._fastest.best_size))
        return self._start(device, batch, subnetwork, now)

    def _run_refinement(self, device: int, now: float) -> Run | Deliver:
        """Run the most urgent requests that have an answer and time for a better one, or deliver what they have."""
        head, others = self._refinements.head, len(self._refinements) - 1
        assert head.answered_by is not None
        option = self._refinements.step(head, head.answered_by, now, others=others)
        if option is None:
            self._refinements.release(head)
            return Deliver((head,))
        return self._start(device, self._refinements.take(option, device, now), option.name, now)

    def _start(self, device: int, batch: tuple[Request, ...], subnetwork: str, now: float) -> Run:
        predicted_s = self._latency.predict_s(subnetwork, len(batch), device)
        self._capacity.begin(device, now + predicted_s)
        return Run(device, batch, subnetwork, predicted_s)

    def _count_missed(self, queue: DeadlineQueue, now: float, device: int | None) -> int:
        """Return how many of the most urgent requests of a queue can no longer be met.

        One that can still be met if it starts at this very instant is, where a device is free.
        """
        count = 0
        for request in queue:
            spare_s = self._latest_start_at(queue, request) - now
            if spare_s > 0 or (spare_s == 0 and device is not None):
                break
            count += 1
        return count

    def _expire_head(self, count: int, now: float) -> tuple[Request, ...]:
        """Take out the most urgent timely requests; those that there is time to answer late become late, the others return."""
        expired: list[Request] = []
        for request in self._queue.take(count) if count else ():
            chance = self.admission.chance(request.deadline_at, request.subnetwork, now)
            if (
                request.on_miss == "answer"
                and chance.late_start_at + chance.run_s <= request.late_until
            ):
                self._late.add(request)
            else:
                expired.append(request)
        return tuple(expired)

    def _latest_start_at(self, queue: DeadlineQueue, request: Request) -> float:
        """Return the last instant at which a run of its own would still meet a request of a queue."""
        return queue.due_at(request) - self.admission.least_s(request.subnetwork)

    def _next_due_at(self) -> float | None:
        """Return when a request expires, or the best answer so far is to be delivered."""
        due_at = [
            self._latest_start_at(each, each.head) for each in (self._queue, self._late) if each
        ]
        delivery_at = self._refinements.next_delivery_at
        if delivery_at is not None:
            due_at.append(delivery_at)
        return min(due_at, default=None)


def _places(most: int) -> Sequence[int]:
    """Return the places in a queue whose deadlines a decision looks at: the first 16, then each 8 % further.

    The share so found is at most 8 % too large, and the next decision looks again.
    """
    places = list(range(min(16, most)))
    while places[-1] < most - 1:
        places.append(min(int(places[-1] * 1.08) + 1, most - 1))
    return places
