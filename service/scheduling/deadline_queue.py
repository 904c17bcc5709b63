"""PURE: requests in the order of their deadlines."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from operator import attrgetter

from service.scheduling.requests import Request


class DeadlineQueue:
    """Requests in deadline order; ties in order of arrival.

    Args:
        due_at: when a request is due here.

    Attributes:
        deadlines: when each request is due here, ascending; always the same list, not to be changed.
    """

    def __init__(self, due_at: Callable[[Request], float] = attrgetter("deadline_at")) -> None:
        self.due_at = due_at
        self.deadlines: list[float] = []
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
        return bisect_right(self.deadlines, deadline_at)

    def due_before(self, at: float) -> int:
        """Return how many requests are due before an instant."""
        return bisect_left(self.deadlines, at)

    def add(self, request: Request) -> None:
        """Put a request in its place."""
        due_at = self.due_at(request)
        place = bisect_right(self.deadlines, due_at)
        self.deadlines.insert(place, due_at)
        self._requests.insert(place, request)

    def take(self, count: int) -> tuple[Request, ...]:
        """Remove and return the most urgent requests."""
        taken = tuple(self._requests[:count])
        del self._requests[:count], self.deadlines[:count]
        return taken

    def take_last(self) -> Request:
        """Remove and return the least urgent request."""
        self.deadlines.pop()
        return self._requests.pop()

    def remove(self, request: Request) -> bool:
        """Remove one request; False if it is not here."""
        due_at = self.due_at(request)
        for place in range(self.due_before(due_at), self.place_of(due_at)):
            if self._requests[place] is request:
                del self._requests[place], self.deadlines[place]
                return True
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
