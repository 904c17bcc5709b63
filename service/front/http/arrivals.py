"""When a request arrived, as early as that can be told, and how many were read whose turn has not come.

While the event loop works, arrivals wait unseen in their sockets. The loop reads all that have come in one look, and
works on them one after the other until the next look.
"""

from math import inf

JUST_S = 50e-6  # from the end of work to the next look, where something is there to be read


class Arrivals:
    """What all connections share."""

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
