"""PURE: requests that get a late answer rather than none."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from service.scheduling.deadline_queue import Request

BEST_EFFORT_EVERY = 128  # runs under load: less than 1 % of them answer late requests


class BestEffort:
    """Late requests, first come first served.

    Args:
        fastest: the subnetwork of those that name none.
    """

    def __init__(self, fastest: str) -> None:
        self._fastest = fastest
        self._waiting: OrderedDict[Request, None] = OrderedDict()
        self._passed_over = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        """Iterate over the requests, the oldest first."""
        return iter(self._waiting)

    @property
    def is_due(self) -> bool:
        """Whether so many other runs went first that one of these may."""
        return self._passed_over >= BEST_EFFORT_EVERY

    @property
    def subnetwork(self) -> str:
        """What the oldest is to be run in."""
        return next(iter(self._waiting)).subnetwork or self._fastest

    def add(self, requests: Iterable[Request]) -> None:
        """Put requests behind the others."""
        self._waiting.update((each, None) for each in requests)

    def remove(self, request: Request) -> bool:
        """Remove one request; False if it is not here."""
        if request not in self._waiting:
            return False
        del self._waiting[request]
        return True

    def clear(self) -> tuple[Request, ...]:
        """Take out all."""
        waiting = tuple(self._waiting)
        self._waiting.clear()
        return waiting

    def pass_over(self) -> None:
        """Count a run of other requests."""
        self._passed_over += 1

    def take(self, limit: int) -> tuple[Request, ...]:
        """Take out the oldest that go together, for a run in ``subnetwork``."""
        self._passed_over = 0
        forced = next(iter(self._waiting)).subnetwork
        batch: list[Request] = []
        while self._waiting and len(batch) < limit:
            if next(iter(self._waiting)).subnetwork != forced:
                break
            batch.append(self._waiting.popitem(last=False)[0])
        return tuple(batch)
