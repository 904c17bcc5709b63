"""What has arrived, since when, and what of it waits for its turn, so that a flood costs no timely request its answer.

A loop that handles whatever it reads writes no reply meanwhile. Here each look at the sockets handles a few requests, the
most urgent first, and replies go out between looks: the fewer the longer one takes, since the engine reckons with how late
replies are. When a request is due is known once its head is read; until then it is taken to have the deadline of the one
before it on the same connection, or of the one before it on any. Who has long waits a second for those who have less.

Where so many wait that one more would be late, that one is shed at once, so that its client may ask elsewhere, and so are
those whose time is over; both some a look. Where more time is over than can be shed in a look, the last ones to be due are
handled: a flood of any size leaves half of the time for answers.
"""

import asyncio
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from math import inf
from typing import NamedTuple, Protocol

A_LOOK = 4  # requests handled at most before replies are written
LOOK_S = 0.002  # that they may take, with the runs of an engine on the same core
SHEDS_EACH = 12  # shed beside each that is handled, which take as long
MAY_WAIT = 0.25  # of its deadline, here; the rest is for the engine and the reply
LATEST_TURN_S = (
    1.0  # after its arrival: who has longer would else wait until hardly any of it is left
)
COST_GAIN = 0.05  # of the way to what handling the last request took
JUST_S = 50e-6  # from the end of work to the next look, where something is there to be read


class Arrivals:
    """When a request arrived, as early as that can be told, and how many were read whose turn has not come.

    While the event loop works, arrivals wait unseen in their sockets. The loop reads all that have come in one look, and
    works on them one after the other until the next look.
    """

    def __init__(self) -> None:
        self.waiting = 0  # requests that were read, and whose handling has not begun
        self._is_looking = False
        self._look_at = -inf
        self._since = -inf
        self._worked_at = -inf

    def read(self, now: float, *, replied_at: float) -> tuple[float, bool]:
        """Return when a request that is read now arrived, and whether it is the first of a look.

        A look right after work finds what came meanwhile: that counts from the look before it. After the first of a
        look, call ``looked`` when all of it was read.

        Args:
            now: seconds.
            replied_at: when the reply before it on the same connection was written; it came after that.
        """
        is_first = not self._is_looking
        if is_first:
            self._is_looking = True
            self._since = self._look_at if now - self._worked_at < JUST_S else now
            self._look_at = now
        return max(self._since, replied_at), is_first

    def looked(self) -> None:
        """Note the end of a look."""
        self._is_looking = False

    def woke(self, now: float) -> None:
        """Note a look at the sockets that was not for a request: a thread has called the loop, which slept till then."""
        if not self._is_looking:
            self._look_at = now

    def worked(self, now: float) -> None:
        """Note that a reply was written."""
        self._worked_at = now


class Reader(Protocol):
    """A connection."""

    def read(self, data: bytes, arrived_at: float, *, lost_within_s: float) -> None:
        """Handle what has come over it, at that instant.

        Args:
            lost_within_s: what is to be classified within so many seconds or fewer is lost, and shed; 0 if nothing is.
        """


class Outlook(Protocol):
    """What a front expects of requests like the one before."""

    def met_from(self, due_at: float, now: float) -> float:
        """Return from when on one must be due to be answered in time, for those that are due about an instant."""

    def deadline_s(self) -> float:
        """Return its deadline, from its arrival."""


class Waiting(NamedTuple):
    """What has come over a connection and is not handled; such are ordered by when it is their turn."""

    turn_at: float
    number: int  # in the order in which they came, no two the same
    reader: Reader
    data: bytes
    arrived_at: float
    deadline_s: float

    @property
    def due_at(self) -> float:
        """When it should be answered."""
        return self.arrived_at + self.deadline_s


class Inbox:
    """What has been read and is not handled yet. To be made and used on one event loop.

    Args:
        outlook: says what is worth its time.
        clock: seconds, monotonic.
    """

    def __init__(self, outlook: Outlook, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = asyncio.get_running_loop()
        self._outlook = outlook
        self._clock = clock
        self._order: list[Waiting] = []
        self._of: dict[Reader, Waiting] = {}
        self._offered = 0
        self._looked = self._sheds = 0  # handled, and shed, in this look
        self._is_scheduled = False
        self._looked_at = 0.0
        self._was_left = False  # whether the look before has left some waiting
        self._cost_s = 0.0  # of a request, while others wait
        self._a_look, self._sheds_a_look = A_LOOK, SHEDS_EACH * A_LOOK
        self._met_from = -inf  # what is due earlier is lost, of what is due behind the next
        self._known_for = inf

    def __len__(self) -> int:
        """Return how many connections have something here."""
        return len(self._order)

    def offer(
        self, reader: Reader, data: bytes, arrived_at: float, deadline_s: float | None = None
    ) -> None:
        """Handle what has come over a connection, now or in its turn.

        Args:
            reader: the connection.
            data: what has come.
            arrived_at: when it did.
            deadline_s: what it is taken to have from there, as long as nobody has read it; None for that of other requests.
        """
        before = self._of.get(reader)
        if before is not None:
            self._remove(before)
            self._add(before._replace(data=before.data + data))
        else:
            if deadline_s is None:
                deadline_s = self._outlook.deadline_s()
            turn_at = arrived_at + min(deadline_s, LATEST_TURN_S)
            self._offered += 1
            self._take(Waiting(turn_at, self._offered, reader, data, arrived_at, deadline_s))
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._look)

    def handle_now(self, reader: Reader) -> None:
        """Handle what waits of a connection from which nothing more comes, or that has gone."""
        waiting = self._of.get(reader)
        if waiting is not None:
            self._remove(waiting)
            reader.read(waiting.data, waiting.arrived_at, lost_within_s=0.0)

    def _take(self, one: Waiting) -> None:
        """Handle or shed what has come, or have it wait."""
        may_shed = self._sheds < self._sheds_a_look
        if may_shed and (self._is_lost(one) or self._would_wait_long(one)):
            self._shed(one)
        elif self._order or self._looked >= self._a_look:
            self._add(one)
        else:
            self._handle(one)

    def _look(self) -> None:
        """Handle some of what waits."""
        self._is_scheduled = False
        begun_at = self._clock()
        if self._was_left:  # since the look before, nothing but its requests took time
            took_s = (begun_at - self._looked_at) / max(self._looked, 1)
            self._cost_s += COST_GAIN * (took_s - self._cost_s)
            fitting = LOOK_S / self._cost_s if self._cost_s else inf
            self._a_look = int(min(max(fitting, 1), A_LOOK))
            self._sheds_a_look = SHEDS_EACH * self._a_look
        order = self._order
        self._look_out(begun_at, is_crowded=bool(order or self._sheds))
        self._looked, self._looked_at, self._sheds = 0, begun_at, 0
        while order and self._looked < self._a_look:
            is_lost = self._is_lost(order[0])
            # Where more is lost than can be shed now, the last one is not.
            if is_lost and self._sheds < self._sheds_a_look:
                self._shed(self._remove(order[0]))
            else:
                self._handle(self._remove(order[-1 if is_lost else 0]))
        while order and self._sheds < self._sheds_a_look and self._would_wait_long(order[-1]):
            self._shed(self._remove(order[-1]))
        self._was_left = bool(order)
        if self._was_left:
            self._is_scheduled = True
            self._loop.call_soon(self._look)

    def _look_out(self, now: float, *, is_crowded: bool) -> None:
        """See what is lost. Where nothing waits, nothing is: a late answer may be wanted, and keeps nobody waiting."""
        if not is_crowded:
            self._met_from = -inf
            return
        due_at = self._order[0].due_at if self._order else now + self._outlook.deadline_s()
        self._met_from, self._known_for = self._outlook.met_from(due_at, now), due_at

    def _is_lost(self, one: Waiting) -> bool:
        """Say whether one could not be answered in time any more; what is due earlier than others may be, where they are not."""
        due_at = one.due_at
        if due_at >= self._met_from or due_at >= self._known_for:
            return due_at < self._met_from
        return due_at < self._outlook.met_from(due_at, self._clock())

    def _would_wait_long(self, one: Waiting) -> bool:
        """Say whether so many are due before one that it would be late."""
        before = bisect_left(self._order, one)
        return before * self._cost_s > MAY_WAIT * one.deadline_s

    def _add(self, one: Waiting) -> None:
        insort(self._order, one)
        self._of[one.reader] = one

    def _remove(self, one: Waiting) -> Waiting:
        del self._order[bisect_left(self._order, one)]
        del self._of[one.reader]
        return one

    def _handle(self, one: Waiting) -> None:
        self._looked += 1
        one.reader.read(one.data, one.arrived_at, lost_within_s=0.0)

    def _shed(self, one: Waiting) -> None:
        self._sheds += 1
        one.reader.read(one.data, one.arrived_at, lost_within_s=one.deadline_s)
