"""What was read from connections and waits for its turn, so that a flood costs no timely request its answer.

A loop that handles whatever it reads writes no reply meanwhile. Here each look at the sockets handles a few requests, in
their order, and replies go out between looks. Where so many wait that one more would be late, that one is shed at once, so
that its client may ask elsewhere, and so are those whose time is over; both a few a look.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Protocol

A_LOOK = 4  # requests handled before replies are written: a millisecond
SHEDS_A_LOOK = 16  # beside them, which take as long
MAY_WAIT = 0.25  # of its deadline, here; the rest is for the engine and the reply
COST_GAIN = 0.05  # of the way to what handling the last request took


class Reader(Protocol):
    """A connection."""

    def read(self, data: bytes, arrived_at: float, *, is_lost: bool) -> None:
        """Handle what has come over it, at that instant; shed what would be classified if that is lost."""


class Outlook(Protocol):
    """What a front expects of a request like the one before it."""

    def is_lost(self, arrived_at: float, now: float) -> bool:
        """Say whether it can be answered in time no more, having arrived then."""

    def deadline_s(self) -> float:
        """Return its deadline, from its arrival."""


class Inbox:
    """What has been read and is not handled yet. To be made and used on one event loop.

    Args:
        outlook: says what is worth its time.
    """

    def __init__(self, outlook: Outlook) -> None:
        self._loop = asyncio.get_running_loop()
        self._outlook = outlook
        self._waiting: OrderedDict[Reader, tuple[bytes, float]] = OrderedDict()
        self._looked = self._sheds = 0  # handled, and shed, in this look
        self._is_scheduled = False
        self._looked_at = 0.0
        self._was_left = False  # whether the look before has left some waiting
        self._cost_s = 0.0  # of a request, while others wait

    def __len__(self) -> int:
        """Return how many connections have something here."""
        return len(self._waiting)

    def offer(self, reader: Reader, data: bytes, arrived_at: float) -> None:
        """Handle what has come over a connection, now or in its turn."""
        if reader in self._waiting:
            before, arrived_at = self._waiting[reader]
            self._waiting[reader] = before + data, arrived_at
        elif self._is_crowded() and self._sheds < SHEDS_A_LOOK:
            self._handle(reader, data, arrived_at, is_lost=True)
        elif self._waiting or self._looked >= A_LOOK:
            self._waiting[reader] = data, arrived_at
        else:
            self._handle(reader, data, arrived_at, is_lost=False)
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
        begun_at = time.monotonic()
        if self._was_left:  # since the look before, nothing but its requests took time
            took_s = (begun_at - self._looked_at) / max(self._looked, 1)
            self._cost_s += COST_GAIN * (took_s - self._cost_s)
        self._looked, self._looked_at, self._sheds = 0, begun_at, 0
        while self._waiting and self._looked < A_LOOK and self._sheds < SHEDS_A_LOOK:
            _, oldest_at = next(iter(self._waiting.values()))
            is_lost = self._outlook.is_lost(oldest_at, time.monotonic())
            reader, (data, arrived_at) = self._waiting.popitem(last=False)
            self._handle(reader, data, arrived_at, is_lost=is_lost)
        while self._is_crowded() and self._sheds < SHEDS_A_LOOK:
            reader, (data, arrived_at) = self._waiting.popitem(last=True)
            self._handle(reader, data, arrived_at, is_lost=True)
        self._was_left = bool(self._waiting)
        if self._was_left:
            self._is_scheduled = True
            self._loop.call_soon(self._look)

    def _is_crowded(self) -> bool:
        """Say whether one more would be late behind those that wait."""
        return len(self._waiting) * self._cost_s > MAY_WAIT * self._outlook.deadline_s()

    def _handle(self, reader: Reader, data: bytes, arrived_at: float, *, is_lost: bool) -> None:
        if is_lost:
            self._sheds += 1
        else:
            self._looked += 1
        reader.read(data, arrived_at, is_lost=is_lost)
