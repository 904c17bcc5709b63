"""All connections of the server: how many there may be, which wait too long, and when the last one has ended."""

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Protocol

from service.front.access.addresses import Proxies, household_of
from service.outcomes import Ending
from service.settings import Settings

OTHER_FILES = 64  # descriptors that are kept for the bundle, the log, listeners and threads
SWEEPS = 4  # looks at all connections within the shortest wait; at least one a second


class Connection(Protocol):
    """A connection, as it is counted."""

    @property
    def expires_at(self) -> float:
        """When it ends unless its client does something; infinite while a request is handled."""

    def expire(self) -> None:
        """End: the client took too long."""

    def abort(self) -> None:
        """End at once."""


class Connections:
    """What all connections share.

    Args:
        settings: how long a client may take.
        count_ended: counts those that the server ends.
    """

    def __init__(self, settings: Settings, count_ended: Callable[[Ending], None]) -> None:
        files = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES, 1)
        self._most = min(files, settings.max_connections)
        self._most_per_address = settings.max_connections_per_address
        self._proxies = Proxies(settings.trusted_proxies)
        self._households: Counter[str] = Counter()
        shortest_s = min(settings.read_head_s, settings.read_body_s, settings.keep_alive_s)
        self._sweep_every_s = min(shortest_s / SWEEPS, 1.0)
        self._count_ended = count_ended
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Take in a new connection; False if there are too many, and none that waits could be ended for it."""
        has_room = len(self._open) < self._most
        if not has_room:
            oldest = min(self._open, key=lambda each: each.expires_at)
            if oldest.expires_at < inf:
                has_room = True
                oldest.abort()
                self._open.discard(oldest)  # the next one that comes in this look ends another
            self.ended("crowded")
        self._open.add(connection)
        self._all_closed.clear()
        if self._timer is None:
            self._arm()
        return has_room

    def allows_another_from(self, address: str) -> bool:
        """Count a new connection from an address; False if there are too many."""
        if address in self._proxies:
            return True
        household = household_of(address)
        self._households[household] += 1
        if self._households[household] <= self._most_per_address:
            return True
        self.ended("address")
        return False

    def remove(self, connection: Connection, address: str) -> None:
        """Forget a connection that has ended, from an address."""
        household = household_of(address)
        self._households[household] -= 1
        if self._households[household] <= 0:
            del self._households[household]
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()

    def ended(self, by: Ending) -> None:
        """Count a connection that the server ends."""
        self._count_ended(by)

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        await self._all_closed.wait()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._sweep_every_s, self._sweep)

    def _sweep(self) -> None:
        """End the connections whose time is over."""
        now = time.monotonic()
        for connection in [each for each in self._open if each.expires_at <= now]:
            connection.expire()
        self._timer = None
        if self._open:
            self._arm()
