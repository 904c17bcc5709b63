"""Whose body is read on: of large ones a few parts in each look at the sockets, the oldest request's first.

A thousand bodies that come at once would make each look at the sockets as long as a deadline, and none of them whole in time.
"""

import asyncio
import heapq
from typing import Protocol

LARGE_PART = 32 << 10  # bytes; what is smaller is read as fast as a turn is given
PARTS_A_LOOK = 4  # of up to 256 KiB: under a millisecond


class Reader(Protocol):
    """A connection."""

    def read_on(self) -> None:
        """Read the next part of a body."""


class Turns:
    """The turns of one front. To be used on one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[float, int, Reader]] = []  # a heap
        self._count = 0
        self._read_parts = 0  # in this look
        self._is_scheduled = False

    def must_wait(self, reader: Reader, arrived_at: float) -> bool:
        """Note that a large part of a body was read; say whether its reader has to wait until it is told to read on.

        Args:
            reader: has read it.
            arrived_at: when its request did.
        """
        self._read_parts += 1
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._look)
        if self._read_parts <= PARTS_A_LOOK and not self._waiting:
            return False
        self._count += 1
        heapq.heappush(self._waiting, (arrived_at, self._count, reader))
        return True

    def _look(self) -> None:
        """Have the next ones read on."""
        self._read_parts = 0
        for _ in range(min(PARTS_A_LOOK, len(self._waiting))):
            _, _, reader = heapq.heappop(self._waiting)
            reader.read_on()
        self._is_scheduled = bool(self._waiting)
        if self._is_scheduled:
            self._loop.call_soon(self._look)
