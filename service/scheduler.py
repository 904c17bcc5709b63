"""PURE: which requests run next, in which subnetwork; which are refused or given up. Time is an argument.

The rules:

1. A request is due at ``deadline_at``; its run must end ``latency.reserve_s`` earlier, for the reply.
2. On arrival: a full queue refuses it. A request that cannot be met behind the work already accepted is refused if it
   asks for that (``on_miss="refuse"``), and else becomes *best effort*.
3. Requests that can be met run in the order of their deadlines (EDF); the policy chooses how many, and the subnetwork.
   A request that names its subnetwork runs in it, with others that name the same.
4. A waiting request that not even the fastest subnetwork can meet any more is expired or becomes best effort.
5. Best-effort requests run in the fastest subnetwork (or the one they name), first come first served: when nothing
   else waits, and at most once in ``BEST_EFFORT_EVERY`` runs where every waiting request can still be met after it.
   Admission keeps time for that run, so they neither delay others past their deadlines nor starve.

How an adapter drives it: ``admit`` each request as it arrives; then, and after each ``finished``, carry out
``next_action`` until it returns ``Wait``, and call again at ``Wait.until`` at the latest. ``observe`` and
``observe_reply`` of the latency model, and ``observe_overhead`` here, are told what was measured.
Every admitted request leaves exactly once: in a ``Run``, in an ``Expire``, or by ``cancel``.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.deadline_queue import DeadlineQueue, OnMiss, Request
from service.latency import LatencyModel
from service.policies import Candidate, policy_named

__all__ = [
    "Action",
    "Candidate",
    "Expire",
    "OnMiss",
    "Refusal",
    "Request",
    "Run",
    "Scheduler",
    "Wait",
]

BEST_EFFORT_EVERY = 32  # of the runs under load at most 3 % answer requests that are late already


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request was not admitted.

    Args:
        reason: ``impossible``: no idle machine could meet it; ``overloaded``: the work ahead of it is too much;
            ``queue_full``: as many wait as may.
        needed_s: the time its answer would have taken from its arrival; 0 for a full queue.
        limit: what was exceeded: the deadline in seconds, or the length of the queue.
        retry_after_s: when the accepted work should be done; 0 if waiting will not help.
    """

    reason: Literal["impossible", "overloaded", "queue_full"]
    needed_s: float
    limit: float
    retry_after_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Run ``batch`` in ``subnetwork`` on ``device`` now; report its end with ``finished``."""

    device: int
    batch: tuple[Request, ...]
    subnetwork: str
    predicted_s: float


@dataclass(frozen=True, slots=True)
class Expire:
    """Refuse ``requests``: they asked for no late answer, and can no longer be met."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before the next arrival or end of a run, or ``until`` if that is sooner."""

    until: float | None = None


Action = Run | Expire | Wait


class Scheduler:
    """Earliest deadline first, in the subnetwork that the policy chooses.

    Args:
        subnetworks: all that may be run; the policy chooses from those on the accuracy/latency front.
        latency: predicted run latencies; it also says how many devices there are.
        policy: ``anytime``, ``slackfit`` or ``static:<subnetwork>``.
        max_queue: the most requests that may wait.
        max_batch: the most requests in one run.

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
    ) -> None:
        self._latency = latency
        self._policy = policy_named(policy, subnetworks, latency, max_batch=max_batch)
        self._fastest = self._policy.front[0].name
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._free = DeadlineQueue()  # the policy chooses their subnetwork
        self._forced: dict[str, DeadlineQueue] = {}
        self._best_effort: OrderedDict[Request, None] = OrderedDict()
        self._in_flight: dict[int, float] = {}  # device -> when it should be free
        self._runs_since_best_effort = 0

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._free) + sum(map(len, self._forced.values())) + len(self._best_effort)

    def admit(self, request: Request, now: float) -> Refusal | None:
        """Accept a request, or say why not."""
        if len(self) >= self._max_queue:
            return Refusal("queue_full", 0.0, self._max_queue, self._drain_s(now))
        name = request.subnetwork or self._fastest
        reserve_s = self._latency.reserve_s
        work_s = self._work_ahead_s(request, now) + self._latency.predict_s(name, 1)
        if now + work_s + reserve_s <= request.deadline_at:
            self._queue_of(request).add(request)
        elif request.on_miss == "answer":
            self._best_effort[request] = None
        else:
            allowed_s = request.deadline_at - request.arrived_at
            alone_s = self._latency.profile_s(name, 1) + reserve_s
            if alone_s > allowed_s:
                return Refusal("impossible", alone_s, allowed_s, 0.0)
            needed_s = now - request.arrived_at + work_s + reserve_s
            return Refusal("overloaded", needed_s, allowed_s, self._drain_s(now))
        return None

    def next_action(self, now: float) -> Action:
        """Return what to do now; call again until it is ``Wait``."""
        expired = self._give_up(now)
        if expired:
            return Expire(expired)
        device = self._free_device()
        if device is None:
            return Wait(self._next_expiry_at())
        queue = min(
            (queue for queue in self._queues() if queue),
            key=lambda each: each.head.deadline_at,
            default=None,
        )
        if self._best_effort and (queue is None or self._has_room_for_best_effort(now)):
            return self._run_best_effort(device, now)
        if queue is None:
            return Wait()
        self._runs_since_best_effort += 1
        slack_s = queue.slack_s(now + self._latency.reserve_s)
        forced = queue.head.subnetwork
        if forced is None:
            choice = self._policy.choose(slack_s, device)
            return self._start(device, queue.take(choice.batch_size), choice.subnetwork, now)
        size = self._largest_fitting(forced, len(queue), float(slack_s[0]), device)
        return self._start(device, queue.take(size), forced, now)

    def finished(self, run: Run, now: float) -> None:
        """Note that a run ended: its device is free."""
        del self._in_flight[run.device]

    def cancel(self, request: Request) -> bool:
        """Remove a request whose client has gone; False if it no longer waits."""
        if request in self._best_effort:
            del self._best_effort[request]
            return True
        return self._queue_of(request).remove(request)

    def observe_overhead(self, cost_s: float) -> None:
        """Learn what a request cost this machine outside its run: reading, decoding, replying."""

    def _queue_of(self, request: Request) -> DeadlineQueue:
        """Return the queue of those that run together with a request."""
        if request.subnetwork is None:
            return self._free
        return self._forced.setdefault(request.subnetwork, DeadlineQueue())

    def _queues(self) -> tuple[DeadlineQueue, ...]:
        return (self._free, *self._forced.values())

    def _free_device(self) -> int | None:
        """Return the fastest device without a run."""
        free = [each for each in range(self._latency.devices) if each not in self._in_flight]
        return min(free, key=self._latency.slowdown, default=None)

    def _work_ahead_s(self, request: Request, now: float) -> float:
        """Return when a request could start, in seconds from now, were all before it run as fast as can be."""
        work_s = sum(
            queue.due_by(request.deadline_at) * self._pace_s(name)
            for name, queue in ((self._fastest, self._free), *self._forced.items())
        )
        if self._best_effort:
            work_s += self._latency.typical_s(self._fastest, 1)
        return work_s / self._latency.devices + self._until_free_s(now)

    def _until_free_s(self, now: float) -> float:
        """Return how long until the next device is free."""
        if len(self._in_flight) < self._latency.devices:
            return 0.0
        return max(min(self._in_flight.values()) - now, 0.0)

    def _pace_s(self, subnetwork: str) -> float:
        """Return the least time per request of a subnetwork, in the largest batch."""
        alone_s = self._latency.typical_s(subnetwork, 1)
        return min(alone_s, self._latency.typical_s(subnetwork, self._max_batch) / self._max_batch)

    def _drain_s(self, now: float) -> float:
        """Return when the requests that wait should be done, in seconds from now."""
        return len(self) * self._pace_s(self._fastest) / self._latency.devices + self._until_free_s(
            now
        )

    def _give_up(self, now: float) -> tuple[Request, ...]:
        """Take out the requests that can no longer be met; return those to be refused."""
        expired: list[Request] = []
        for queue in self._queues():
            while queue and self._latest_start_at(queue.head) < now:
                (request,) = queue.take(1)
                if request.on_miss == "refuse":
                    expired.append(request)
                else:
                    self._best_effort[request] = None
        return tuple(expired)

    def _latest_start_at(self, request: Request) -> float:
        """Return the last instant at which a run of its own would still meet a request."""
        name = request.subnetwork or self._fastest
        return request.deadline_at - self._latency.reserve_s - self._latency.predict_s(name, 1)

    def _next_expiry_at(self) -> float | None:
        """Return when the first of the most urgent requests must be refused, if it asks for that."""
        heads = (queue.head for queue in self._queues() if queue)
        return min(
            (self._latest_start_at(head) for head in heads if head.on_miss == "refuse"),
            default=None,
        )

    def _largest_fitting(self, subnetwork: str, waiting: int, limit_s: float, device: int) -> int:
        """Return the largest batch whose predicted latency is within a limit, and at least 1."""
        size = min(waiting, self._max_batch)
        while size > 1 and self._latency.predict_s(subnetwork, size, device) > limit_s:
            size -= 1
        return size

    def _has_room_for_best_effort(self, now: float) -> bool:
        """Return whether a late request may go first: seldom, and only if no other misses by it."""
        if self._runs_since_best_effort < BEST_EFFORT_EVERY:
            return False
        name = next(iter(self._best_effort)).subnetwork or self._fastest
        start_at = now + self._latency.predict_s(name, 1) + self._latency.reserve_s
        for queue in self._queues():
            if queue:
                pace_s = self._latency.predict_s(queue.head.subnetwork or self._fastest, 1)
                spare_s = queue.slack_s(start_at)
                if min(spare - (k + 1) * pace_s for k, spare in enumerate(spare_s)) < 0:
                    return False
        return True

    def _run_best_effort(self, device: int, now: float) -> Run:
        """Run the oldest best-effort requests that go together."""
        self._runs_since_best_effort = 0
        forced = next(iter(self._best_effort)).subnetwork
        batch: list[Request] = []
        limit = 1 if any(self._queues()) else self._max_batch
        while self._best_effort and len(batch) < limit:
            if next(iter(self._best_effort)).subnetwork != forced:
                break
            batch.append(self._best_effort.popitem(last=False)[0])
        return self._start(device, tuple(batch), forced or self._fastest, now)

    def _start(self, device: int, batch: tuple[Request, ...], subnetwork: str, now: float) -> Run:
        predicted_s = self._latency.predict_s(subnetwork, len(batch), device)
        self._in_flight[device] = now + predicted_s
        return Run(device, batch, subnetwork, predicted_s)
