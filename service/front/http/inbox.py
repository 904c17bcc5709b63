"""What has arrived, since when, and what of it waits for its turn, so that a flood costs no timely request its answer.

A loop that handles whatever it reads writes no reply meanwhile. Here each look at the sockets handles a few requests, in
their order, and replies go out between looks: the fewer the longer one takes, since the engine reckons with how late replies
are. Where so many wait that one more would be late, that one is shed at once, so that its client may ask elsewhere, and so
are those whose time is over; both some a look. Where more time is over than can be shed in a look, the newest are handled: a
flood of any size leaves half of the time for answers.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Protocol

A_LOOK = 4  # requests handled at most before replies are written
LOOK_S = 0.002  # that they may take, with the runs of an engine on the same core
SHEDS_EACH = 12  # shed beside each that is handled, which take as long
MAY_WAIT = 0.25  # of its deadline, here; the rest is for the engine and the reply
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

    def read(self, data: bytes, arrived_at: float, *, is_lost: bool) -> None:
        """Handle what has come over it, at that instant; shed what would be classified if that is lost."""


class Outlook(Protocol):
    """What a front expects of requests like the one before."""

    def in_time_since(self, arrived_at: float, now: float) -> float:
        """Return since when one must have arrived to be answered in time, for those that arrived about an instant."""

    def deadline_s(self) -> float:
        """Return its deadline, from its arrival."""


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
        self._waiting: OrderedDict[Reader, tuple[bytes, float]] = OrderedDict()
        self._looked = self._sheds = 0  # handled, and shed, in this look
        self._is_scheduled = False
        self._looked_at = 0.0
        self._was_left = False  # whether the look before has left some waiting
        self._cost_s = 0.0  # of a request, while others wait
        self._a_look, self._sheds_a_look = A_LOOK, SHEDS_EACH * A_LOOK
        self._most_waiting = inf  # behind so many, one more would be late
        self._lost_before = -inf  # what has arrived earlier is

    def __len__(self) -> int:
        """Return how many connections have something here."""
        return len(self._waiting)

    def offer(self, reader: Reader, data: bytes, arrived_at: float) -> None:
        """Handle what has come over a connection, now or in its turn."""
        waiting = self._waiting
        if reader in waiting:
            before, arrived_at = waiting[reader]
            waiting[reader] = before + data, arrived_at
        elif self._sheds < self._sheds_a_look and (
            arrived_at < self._lost_before or len(waiting) > self._most_waiting
        ):
            self._shed(reader, data, arrived_at)
        elif waiting or self._looked >= self._a_look:
            waiting[reader] = data, arrived_at
        else:
            self._looked += 1
            reader.read(data, arrived_at, is_lost=False)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._look)

    def handle_now(self, reader: Reader) -> None:
        """Handle what waits of a connection from which nothing more comes, or that has gone."""
        waiting = self._waiting.pop(reader, None)
        if waiting is not None:
            reader.read(*waiting, is_lost=False)

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
        waiting = self._waiting
        self._look_out(begun_at, is_crowded=bool(waiting or self._sheds))
        self._looked, self._looked_at, self._sheds = 0, begun_at, 0
        while waiting and self._looked < self._a_look:
            # Where more is lost than can be shed now, the newest is not.
            is_swamped = self._sheds >= self._sheds_a_look and self._oldest_at() < self._lost_before
            reader, (data, arrived_at) = waiting.popitem(last=is_swamped)
            if arrived_at < self._lost_before and not is_swamped:
                self._shed(reader, data, arrived_at)
            else:
                self._looked += 1
                reader.read(data, arrived_at, is_lost=False)
        while len(waiting) > self._most_waiting and self._sheds < self._sheds_a_look:
            reader, (data, arrived_at) = waiting.popitem(last=True)
            self._shed(reader, data, arrived_at)
        self._was_left = bool(waiting)
        if self._was_left:
            self._is_scheduled = True
            self._loop.call_soon(self._look)

    def _look_out(self, now: float, *, is_crowded: bool) -> None:
        """See what is lost. Where nothing waits, nothing is: a late answer may be wanted, and keeps nobody waiting."""
        if not is_crowded:
            self._lost_before = -inf
            return
        oldest_at = self._oldest_at() if self._waiting else now
        self._lost_before = self._outlook.in_time_since(oldest_at, now)
        if self._cost_s:
            self._most_waiting = MAY_WAIT * self._outlook.deadline_s() / self._cost_s

    def _oldest_at(self) -> float:
        return next(iter(self._waiting.values()))[1]

    def _shed(self, reader: Reader, data: bytes, arrived_at: float) -> None:
        self._sheds += 1
        reader.read(data, arrived_at, is_lost=True)
