"""A timer of the event loop that is exact to a fraction of a millisecond; the loop's own count whole ones."""

import asyncio
import threading
from collections.abc import Callable
from math import inf

LONGEST_WAIT_S = 3600.0  # threads cannot wait for as long as a deadline may be


class Timer:
    """Calls something on the event loop at an instant. To be made and set on the loop.

    Args:
        ring: what is called.
        clock: seconds, monotonic.
    """

    def __init__(self, ring: Callable[[], None], clock: Callable[[], float]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._clock = clock
        self._changed = threading.Condition()
        self._at = inf
        self._sleeps_until = -inf
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="timer", daemon=True)
        self._thread.start()

    def set(self, at: float | None) -> None:
        """Ring at an instant instead of the one set before; None: not at all."""
        with self._changed:
            self._at = inf if at is None else at
            if self._at < self._sleeps_until:
                self._changed.notify()

    def close(self) -> None:
        """Ring no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                left_s = self._at - self._clock()
                if left_s <= 0:
                    self._at = inf
                    self._loop.call_soon_threadsafe(self._ring)
                else:
                    self._sleeps_until = self._at
                    self._changed.wait(None if left_s == inf else min(left_s, LONGEST_WAIT_S))
                    self._sleeps_until = -inf
