"""PURE: which requests run next, in which subnetwork; which are refused or given up. Time is an argument.

The rules:

1. A request is due at ``deadline_at``; its run must end ``latency.reserve_s`` earlier, for the reply.
2. On arrival: a request that cannot be met, or only in place of one accepted before, is shed; unless it takes a late
   answer (``on_miss="answer"``) and the load leaves time for one by ``late_until``: then it is *late*. In a full queue
   the least urgent gives way.
3. Requests that can be met run in the order of their deadlines (EDF); the policy chooses how many, and the subnetwork.
   A request that names its subnetwork runs in it; a batch is of neighbours in the queue that name the same or none.
4. A waiting request that not even the fastest subnetwork can meet any more, or that the policy gives up so that more
   others are met, is expired or becomes late, by the same rule.
5. Late requests run in the fastest subnetwork (or the one they name), in the order of ``late_until``: when no timely one
   waits, and for no longer than arrivals could wait. One that cannot be answered by ``late_until`` is expired. So a late
   answer never costs a timely one.
6. A request that has an answer may be refined: it asks for that, or the policy insured it, by a shallow answer before a
   deep one that might be late. Refinements run when nothing waits that has no answer, those asked for also after a lull
   that they wait for; the best answer there is is delivered when the deadline comes.

How an adapter drives it: ``admit`` each request as it arrives; then, and after each ``finished``, carry out
``next_action`` until it returns ``Wait``, and call again at ``Wait.until`` at the latest. ``observe`` and
``observe_reply`` of the latency model, and ``observe_overhead`` here, are told what was measured: how long a run took,
how long from its end to its replies, and the time a request costs, outside its run, the cores that also run it (zero
where runs are elsewhere, on a GPU). Before ``admit`` it may ask, to save work on what is lost: ``would_miss_deadline``
before it reads a request, ``check_before_decode`` before it decodes its image, both of ``admission``, whose
``count_shed`` is told of those that the first shed.
After a run the adapter offers each request to ``refine``; what is not taken has its last answer. Every admitted request
leaves exactly once: in a ``Run`` after which it is not refined, in an ``Expire``, a ``Displace``, a ``Deliver``, or by
``cancel``.
"""

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from service.scheduling.admission import Admission
from service.scheduling.capacity import Capacity
from service.scheduling.deadline_queue import DeadlineQueue
from service.scheduling.forecast import Forecast
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Candidate, ExpireHead, Outlook, policy_named
from service.scheduling.refinements import Refinements
from service.scheduling.requests import STAGED, Action, Deliver, Expire, Request, Run, Shed, Wait

DEFER_S = 0.005  # after so long a run that waits for fewer arrivals is looked at again


class Scheduler:
    """Earliest deadline first, in the subnetwork that the policy chooses.

    Args:
        subnetworks: all that may be run; the policy chooses from those on the accuracy/latency front.
        latency: predicted run latencies; it also says how many devices there are.
        policy: ``anytime``, ``slackfit`` or ``static:<subnetwork>``.
        max_queue: the most requests that may wait for an answer, and for a better one.
        max_batch: the most requests in one run.
        max_lateness: how late an answer may be, in deadlines.
        insure: whether the policy may let a shallow answer precede a deep one that might be late.

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
        insure: bool = True,
    ) -> None:
        self._latency = latency
        self._policy = policy_named(policy, subnetworks, latency, max_batch=max_batch)
        self._fastest = self._policy.options[0]
        self._insures = insure and len(self._policy.options) > 1
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
        accuracy = {each.name: each.accuracy for each in subnetworks}
        self._refinements = Refinements(
            self._policy.options,
            accuracy,
            latency,
            self._capacity,
            self._forecast,
            max_batch=max_batch,
        )
        self._places = _places(max_queue)

    def __len__(self) -> int:
        """Return how many requests wait for an answer."""
        return len(self._queue) + len(self._late)

    @property
    def refinable(self) -> int:
        """How many requests wait for a better answer."""
        return len(self._refinements)

    def admit(self, request: Request, now: float, *, was_alone: bool = False) -> Shed | None:
        """Accept a request, or say why not; see ``Admission.admit``."""
        return self.admission.admit(request, now, was_alone=was_alone)

    def next_action(self, now: float) -> Action:
        """Return what to do now; call again until it is ``Wait``."""
        device = self._capacity.free_device()
        displaced = self.admission.displaced(now)
        if displaced:
            return displaced
        due = self._refinements.due(now)
        if due:
            return Deliver(due)
        can_start = device is not None
        expired = self._expire(self._count_missed(self._queue, now, can_start=can_start), now)
        # One that could begin at its last instant alone was put off until then, and would be again.
        expired += self._late.take(self._count_missed(self._late, now, can_start=False))
        if expired:
            return Expire(expired)
        if device is None:
            return Wait(self._next_due_at())
        if not self._queue:
            return self._run_late(device, now) or self._run_refinement(device, now)
        outlook = self._outlook(device, now)
        forced = self._forced(self._queue.head)
        if forced is not None:
            head_s = float(outlook.slack_s[0])
            size = outlook.runnable
            while size > 1 and self._latency.predict_s(forced, size, device) > head_s:
                size -= 1
            return self._start(device, self._queue.take(size), forced, now)
        choice = self._policy.choose(outlook)
        if isinstance(choice, ExpireHead):
            expired = self._expire(choice.count, now)
            return Expire(expired) if expired else self.next_action(now)
        batch = self._queue.take(choice.batch_size)
        if choice.insured:
            for request in batch:
                request.refine = "insured"
        return self._start(device, batch, choice.subnetwork, now)

    def finished(self, run: Run, now: float) -> None:
        """Note that a run ended: its device is free."""
        self._capacity.end(run.device)
        self.admission.ran(now)

    def refine(self, request: Request, answered_by: str, now: float) -> bool:
        """Keep a request that a run answered, for a better answer; False if this was its last."""
        if request.answered_by is None and request.refine in STAGED:
            self._forecast.observe_first_answer(is_enough=False)
        if request.refine == "none":
            return False
        others = len(self) + len(self._refinements)
        budget = self._refinements.budget(request, now, others=others)
        has_place = len(self._refinements) < self._max_queue
        if not has_place or not (
            self._refinements.step(request, answered_by, budget, now)
            or self._refinements.should_defer(request, answered_by, budget, now)
        ):
            self._refinements.release(request)
            return False
        self._refinements.hold(request)
        request.answered_by = answered_by
        return True

    def accept_answer(self, request: Request) -> None:
        """Let a request go whose answer is good enough."""
        if request.answered_by is None and request.refine in STAGED:
            self._forecast.observe_first_answer(is_enough=True)
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

    def observe_overhead(self, cost_s: float, arrival_s: float, deciding_s: float) -> None:
        """Learn what requests cost the cores that run them, outside their runs.

        Args:
            cost_s: one that comes here.
            arrival_s: any arrival, by the mean; some are shed before they come here.
            deciding_s: the part of that until it waits for its run, or is shed.
        """
        self._forecast.observe_overhead(cost_s, arrival_s, deciding_s)

    def _outlook(self, device: int, now: float) -> Outlook:
        """Return what the policy may know."""
        slack_s = self._queue.slack_s(now + self._latency.reserve_s)
        places = self._places[: self._places.searchsorted(len(slack_s))]
        seen_s, due_before = slack_s[places], places.astype(np.float64) + 1.0
        rate = self._forecast.rate(now)
        if rate:
            due_before = due_before + rate * self._forecast.overtaking_s(seen_s)
        return Outlook(
            slack_s=slack_s,
            places=places,
            due_before=due_before,
            machine_s=self._capacity.left_s(seen_s, rate),
            runnable=self._queue.alike(self._max_batch),
            busy_s=self._capacity.busy_s(now),
            second_run_s=self._second_run_s(now),
            outside_s=self._forecast.overhead_s / 2,
            free=self._capacity.free_fraction(now),
            rate=rate,
            device=device,
        )

    def _second_run_s(self, now: float) -> float:
        """Return how long two runs, one after the other, of the most urgent request may take; 0 without insurance."""
        if not self._insures or len(self._queue) > self._max_batch:
            return 0.0
        others = len(self) + len(self._refinements) - 1
        budget = self._refinements.budget(self._queue.head, now, others=others)
        slack_s = self._refinements.deliver_at(self._queue.head) - now
        return min(slack_s, budget.share_s, budget.max_blocking_s)

    def _forced(self, request: Request) -> str | None:
        """Return the only subnetwork that may give a request its first answer."""
        return request.subnetwork or (self._fastest.name if request.refine != "none" else None)

    def _count_missed(self, queue: DeadlineQueue, now: float, *, can_start: bool) -> int:
        """Return how many of the most urgent requests of a queue can no longer be met."""
        count = 0
        for request in queue:
            spare_s = self._latest_start_at(queue, request) - now
            if spare_s > 0 or (spare_s == 0 and can_start):
                break
            count += 1
        return count

    def _expire(self, count: int, now: float) -> tuple[Request, ...]:
        """Take out the most urgent requests; those that there is time to answer late become late, the others return."""
        expired: list[Request] = []
        for request in self._queue.take(count) if count else ():
            if self.admission.has_time_to_be_late(request, now):
                self._late.add(request)
            else:
                expired.append(request)
        return tuple(expired)

    def _latest_start_at(self, queue: DeadlineQueue, request: Request) -> float:
        """Return the last instant at which a run of its own would still meet a request of a queue."""
        return queue.due_at(request) - self.admission.least_s(request.subnetwork)

    def _next_due_at(self) -> float | None:
        """Return when a request must be given up, or the best answer so far be delivered."""
        due_at = [
            self._latest_start_at(each, each.head) for each in (self._queue, self._late) if each
        ]
        deliver_at = self._refinements.next_deliver_at
        if deliver_at is not None:
            due_at.append(deliver_at)
        return min(due_at, default=None)

    def _run_late(self, device: int, now: float) -> Run | None:
        """Run the late requests that go together, in no larger a batch than pays and no longer than arrivals could wait."""
        if not self._late:
            return None
        subnetwork = self._late.head.subnetwork or self._fastest.name
        limit_s = self._refinements.max_blocking_s(self._forecast.rate(now))
        size = self._late.alike(self._fastest.best_size)
        while size and self._latency.predict_s(subnetwork, size, device) > limit_s:
            size -= 1
        return self._start(device, self._late.take(size), subnetwork, now) if size else None

    def _run_refinement(self, device: int, now: float) -> Run | Deliver | Wait:
        """Run the most urgent requests that have an answer and time for a better one; deliver the others."""
        if not self._refinements:
            return self._wait(now, is_deferred=bool(self._late))
        head = self._refinements.head
        assert head.answered_by is not None
        budget = self._refinements.budget(head, now, others=len(self._refinements) - 1)
        option = self._refinements.step(head, head.answered_by, budget, now)
        if option is None:
            if self._refinements.should_defer(head, head.answered_by, budget, now):
                return self._wait(now, is_deferred=True)
            self._refinements.release(head)
            return Deliver((head,))
        return self._start(device, self._refinements.take(option, budget, now), option.name, now)

    def _wait(self, now: float, *, is_deferred: bool) -> Wait:
        """Wait until something is due, or a run that was deferred is to be looked at again."""
        due_at = self._next_due_at()
        if not is_deferred:
            return Wait(due_at)
        return Wait(now + DEFER_S if due_at is None else min(due_at, now + DEFER_S))

    def _start(self, device: int, batch: tuple[Request, ...], subnetwork: str, now: float) -> Run:
        predicted_s = self._latency.predict_s(subnetwork, len(batch), device)
        self._capacity.begin(device, now + predicted_s)
        return Run(device, batch, subnetwork, predicted_s)


def _places(most: int) -> NDArray[np.intp]:
    """Return the places in a queue whose deadlines a decision looks at: the first 32, then each 3 % further.

    The share so found is at most 3 % too large; with 1,000 waiting it costs a tenth.
    """
    places = list(range(min(32, most)))
    while places[-1] < most - 1:
        places.append(min(int(places[-1] * 1.03) + 1, most - 1))
    return np.array(places)
