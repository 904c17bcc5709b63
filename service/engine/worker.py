"""The thread of a device: what is to be run on it, one after the other."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """A thread that outlives the bundles that run on its device, so that the runs of two take turns."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._calls = 0
        self._thread = threading.Thread(target=self._run, name="run", daemon=True)
        self._thread.start()

    @property
    def is_called(self) -> bool:
        """Whether somebody awaits a call, such as a run of a warm-up; to be asked on the event loop that calls."""
        return self._calls > 0

    def start(self, work: Callable[[], None]) -> None:
        """Run something that raises nothing after all that was started before."""
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
        """End the thread after all that was started."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
