"""PURE: requests in the order of their deadlines."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from service.scheduling.requests import Request


class DeadlineQueue:
    """Requests in deadline order; ties in order of arrival.

    The deadlines lie in an array of their own: to insert is to move bytes, and all are seen as one vector.

    Args:
        due_at: when a request is due here.
    """

    def __init__(self, due_at: Callable[[Request], float] = attrgetter("deadline_at")) -> None:
        self.due_at = due_at
        self._deadlines = array("d")
        self._requests: list[Request] = []

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        """Iterate over the requests, the most urgent first."""
        return iter(self._requests)

    @property
    def head(self) -> Request:
        """The most urgent request."""
        return self._requests[0]

    @property
    def last(self) -> Request:
        """The least urgent request."""
        return self._requests[-1]

    def place_of(self, deadline_at: float) -> int:
        """Return how many requests go before a new one with this deadline."""
        return bisect_right(self._deadlines, deadline_at)

    def due_at_place(self, place: int) -> float:
        """Return when the request at a place is due here."""
        return self._deadlines[place]

    def add(self, request: Request) -> None:
        """Put a request in its place."""
        place = self.place_of(self.due_at(request))
        self._deadlines.insert(place, self.due_at(request))
        self._requests.insert(place, request)

    def take(self, count: int) -> tuple[Request, ...]:
        """Remove and return the most urgent requests."""
        taken = tuple(self._requests[:count])
        del self._requests[:count], self._deadlines[:count]
        return taken

    def remove(self, request: Request) -> bool:
        """Remove one request; False if it is not here."""
        due_at = self.due_at(request)
        for place in range(self.place_of(due_at) - 1, -1, -1):
            if self._requests[place] is request:
                del self._requests[place], self._deadlines[place]
                return True
            if self._deadlines[place] != due_at:
                break
        return False

    def alike(self, limit: int) -> int:
        """Return how many of the most urgent requests, up to a limit, ask for the same subnetwork or refinement."""
        head = self._requests[0]
        count = 0
        for request in self._requests[:limit]:
            if request.subnetwork != head.subnetwork or request.refine != head.refine:
                break
            count += 1
        return count

    def slack_s(self, now: float) -> NDArray[np.float64]:
        """Return (n,) the seconds left to each request, ascending."""
        return np.frombuffer(self._deadlines) - now
