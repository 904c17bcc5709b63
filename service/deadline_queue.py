"""PURE: requests in the order of their deadlines."""

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

OnMiss = Literal["answer", "refuse"]


@dataclass(eq=False, slots=True)
class Request:
    """One request for an answer; two requests are never equal.

    Args:
        arrived_at: when it arrived, in seconds of a monotonic clock.
        deadline_at: when its answer is due, reply included, on the same clock.
        on_miss: what becomes of it where no subnetwork can meet its deadline: a late answer, or a refusal.
        subnetwork: the only subnetwork that may answer it; None leaves the choice to the policy.
        payload: whatever the caller attaches; never looked at.
    """

    arrived_at: float
    deadline_at: float
    on_miss: OnMiss = "answer"
    subnetwork: str | None = None
    payload: Any = None


class DeadlineQueue:
    """Requests in deadline order; ties in order of arrival.

    The deadlines live in an array of their own: insertion moves bytes, and a policy sees them as one vector.
    """

    def __init__(self) -> None:
        self._deadlines = array("d")
        self._requests: list[Request] = []

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._requests)

    @property
    def head(self) -> Request:
        """The most urgent request."""
        return self._requests[0]

    def add(self, request: Request) -> None:
        """Put a request in its place."""
        place = bisect_right(self._deadlines, request.deadline_at)
        self._deadlines.insert(place, request.deadline_at)
        self._requests.insert(place, request)

    def take(self, count: int) -> tuple[Request, ...]:
        """Remove and return the most urgent requests."""
        taken = tuple(self._requests[:count])
        del self._requests[:count], self._deadlines[:count]
        return taken

    def remove(self, request: Request) -> bool:
        """Remove one request; False if it is not here."""
        end = bisect_right(self._deadlines, request.deadline_at)
        for place in range(end - 1, -1, -1):
            if self._requests[place] is request:
                del self._requests[place], self._deadlines[place]
                return True
            if self._deadlines[place] != request.deadline_at:
                break
        return False

    def due_by(self, deadline_at: float) -> int:
        """Return how many requests are due no later than an instant."""
        return bisect_right(self._deadlines, deadline_at)

    def slack_s(self, now: float) -> NDArray[np.float64]:
        """Return (n,) the seconds left to each request, ascending."""
        return np.frombuffer(self._deadlines) - now
