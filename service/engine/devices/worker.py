"""The thread of a device: what is to be run on it, one after the other."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from queue import SimpleQueue
from typing import TypeVar

HANGS_S, HANGS_TIMES = (
    0.3,
    10.0,
)  # what takes so long, and so many times what was expected, seems to hang

T = TypeVar("T")


class Worker:
    """A thread that outlives the bundles that run on its device, so that the runs of two take turns.

    Args:
        clock: seconds.

    Attributes:
        is_lost: its device fails or hangs, and gets no more runs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_lost = False
        self._clock = clock
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._expected_s: deque[float] = deque()  # of what has not ended, in order
        self._begun_at = inf  # of the first of these
        self._calls = 0
        self._thread = threading.Thread(target=self._run, name="run", daemon=True)
        self._thread.start()

    def seems_to_hang(self, now: float) -> bool:
        """Say whether what the thread does, or should have begun to do, takes far longer than expected."""
        try:
            expected_s = self._expected_s[0]
        except IndexError:
            return False
        return now - self._begun_at > max(HANGS_S, HANGS_TIMES * expected_s)

    @property
    def is_called(self) -> bool:
        """Whether somebody awaits a call, such as a run of a warm-up; to be asked on the event loop that calls."""
        return self._calls > 0

    def start(self, work: Callable[[], None], expected_s: float = inf) -> None:
        """Run something that raises nothing after all that was started before, and should take about so long."""
        if not self._expected_s:
            self._begun_at = self._clock()
        self._expected_s.append(expected_s)
        self._work.put(work)

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function after all that was started before; return what it returns, raise what it raises."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        self.start(work)
        self._calls += 1
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._calls -= 1

    def close(self) -> None:
        """End the thread after all that was started; one that hangs ends with the process."""
        self._work.put(None)
        if not self.is_lost:
            self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            self._begun_at = self._clock()  # the next one
            self._expected_s.popleft()
