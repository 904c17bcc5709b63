"""PURE: whether a new request may still be answered: the rule, and the numbers by which fronts apply it.

The engine publishes what the rule needs as floats alone. A front so sheds a request before its image is decoded, and
without asking the engine, where it could not be answered any more. Where fronts know too little they let a request
pass: admission in the engine applies the same rule to it.

When a new request could start depends on its deadline, because requests run in the order of their deadlines. Published is
a step function: some deadlines of those that wait, and the earliest start of a request due before the first of them,
between two, or after the last.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from service.scheduling.requests import OnMiss, Shed

STEPS = 16  # deadlines published: the place of a request among those that wait is known to a sixteenth of them
LEAST_LATE_S = 0.1  # for a deadline that no machine meets: it asks for the fastest answer there is


class Chance(NamedTuple):
    """What a new request can expect.

    Args:
        start_at: when its run could start, in time.
        late_start_at: when its run could start if its answer may be late.
        run_s: seconds from the start of its run until its reply is written.
        idle_s: the shortest deadline in seconds that an idle machine meets.
        drain_s: seconds until all that wait should be done.
    """

    start_at: float
    late_start_at: float
    run_s: float
    idle_s: float
    drain_s: float

    def verdict(
        self,
        arrived_at: float,
        deadline_at: float,
        late_until: float,
        now: float,
        *,
        is_alone: bool,
    ) -> Literal["timely", "late"] | Shed:
        """Return how a request can be answered, or why not.

        Args:
            arrived_at: when it arrived.
            deadline_at: when its answer is due.
            late_until: until when a late answer is of use; ``deadline_at`` if it is of none.
            now: the present.
            is_alone: whether no other request took time from it since it arrived.
        """
        if self.start_at + self.run_s <= deadline_at:
            return "timely"
        if late_until > deadline_at and self.late_start_at + self.run_s <= late_until:
            return "late"
        allowed_s, spent_s = deadline_at - arrived_at, now - arrived_at
        alone_s = self.idle_s + (spent_s if is_alone else 0.0)
        if alone_s > allowed_s:
            return Shed("impossible", alone_s, allowed_s, 0.0)
        needed_s = self.start_at + self.run_s - arrived_at
        return Shed("overloaded", needed_s, allowed_s, self.drain_s)


def late_until(
    arrived_at: float, deadline_s: float, on_miss: OnMiss, *, idle_s: float, max_lateness: float
) -> float:
    """Return until when an answer is of use: until the deadline, or some deadlines longer if it may be late.

    Args:
        arrived_at: when the request arrived.
        deadline_s: its deadline, from its arrival.
        on_miss: what the client wants where the deadline cannot be met.
        idle_s: the shortest deadline that an idle machine meets.
        max_lateness: how late an answer may be, in deadlines.
    """
    if on_miss == "refuse":
        return arrived_at + deadline_s
    least_s = LEAST_LATE_S if deadline_s < idle_s else 0.0
    return arrived_at + deadline_s + max(max_lateness * deadline_s, least_s)


class Published(NamedTuple):
    """The load of an engine at one instant, for those who ask one of its models.

    All instants are in seconds of one monotonic clock of the machine.

    Args:
        due_at: (STEPS,) deadlines of requests that wait, ascending; infinity where fewer wait.
        start_at: (STEPS + 1,) the earliest start of a new request that is due before each of these, or after the last.
        pace_s: seconds that each request which the engine does not know yet takes from those behind it.
        late_start_at: the earliest start of a run for a late answer.
        drained_at: when all requests that wait should be done.
        places: how many more requests may wait.
        max_queue: how many may wait at all.
        last_due_at: the deadline that a new request must be due before to take a place in a full queue.
        max_lateness: how late an answer may be, in deadlines.
        run_s: (subnetworks + 1,) seconds from the start of a run alone until its reply is written: in the fastest
            subnetwork, then in each of the bundle, in its order.
        idle_s: (subnetworks + 1,) the shortest deadline in seconds that an idle machine meets, in the same order.
    """

    due_at: tuple[float, ...]
    start_at: tuple[float, ...]
    pace_s: float
    late_start_at: float
    drained_at: float
    places: float
    max_queue: float
    last_due_at: float
    max_lateness: float
    run_s: tuple[float, ...]
    idle_s: tuple[float, ...]

    def to_floats(self) -> tuple[float, ...]:
        """Return all of it in one row; of one length for as long as the bundle is the same."""
        due_at, start_at, *scalars, run_s, idle_s = self
        return (*due_at, *start_at, *scalars, *run_s, *idle_s)

    @classmethod
    def from_floats(cls, floats: Sequence[float]) -> "Published":
        """Return what such a row says."""
        row, scalars_at = tuple(floats), 2 * STEPS + 1
        tables_at = scalars_at + len(cls._fields) - 4  # all but the tuples
        idle_at = (tables_at + len(row)) // 2
        tuples = row[tables_at:idle_at], row[idle_at:]
        return cls._make((row[:STEPS], row[STEPS:scalars_at], *row[scalars_at:tables_at], *tuples))

    def met_from(self, due_at: float, *, now: float, ahead: int) -> float:
        """Return from when on a request must be due to be answered in time; for those that are due about an instant.

        Args:
            due_at: that instant.
            now: the present.
            ahead: requests of this front that the engine does not know yet.
        """
        start_at = self.start_at[bisect_right(self.due_at, due_at)]
        return max(start_at + ahead * self.pace_s, now) + self.run_s[0]

    def check_before_decode(
        self,
        arrived_at: float,
        deadline_at: float,
        on_miss: OnMiss,
        *,
        now: float,
        subnetwork: int = 0,
        ahead: int = 0,
        is_alone: bool = False,
    ) -> Shed | None:
        """Return why a request cannot be answered in time, nor late while that is of use; None if perhaps it can.

        Args:
            arrived_at: when it arrived.
            deadline_at: when its answer is due.
            on_miss: what the client wants where the deadline cannot be met.
            now: the present.
            subnetwork: 0 if any may answer, else the place, from 1, of the one that must.
            ahead: requests of this front that the engine does not know yet.
            is_alone: whether no other request took time from it since it arrived.
        """
        ahead_s = ahead * self.pace_s
        start_at = self.start_at[bisect_right(self.due_at, deadline_at)]
        drain_s = max(self.drained_at - now, 0.0)
        idle_s = self.idle_s[subnetwork]
        chance = Chance(
            start_at=max(start_at + ahead_s, now),
            late_start_at=max(self.late_start_at + ahead_s, now),
            run_s=self.run_s[subnetwork],
            idle_s=idle_s,
            drain_s=drain_s,
        )
        useful_until = late_until(
            arrived_at,
            deadline_at - arrived_at,
            on_miss,
            idle_s=idle_s,
            max_lateness=self.max_lateness,
        )
        verdict = chance.verdict(arrived_at, deadline_at, useful_until, now, is_alone=is_alone)
        if isinstance(verdict, Shed):
            return verdict
        may_displace = verdict == "timely" and deadline_at < self.last_due_at
        if ahead < self.places or (may_displace and ahead < self.max_queue):
            return None
        return Shed("queue_full", 0.0, self.max_queue, drain_s)
