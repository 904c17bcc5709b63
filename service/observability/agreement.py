"""How often a subnetwork says what the best one says: the accuracy that needs no labels.

A share of the answered images is run again in the best subnetwork. That never delays a request: it begins only while
none is at work, and happens on the CPU in a process that the system runs only where a core has nothing else to do.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from model.images import Pixels

MOST_WAITING = 64  # images that wait for an idle moment; beyond, the oldest give way


class Classifier(Protocol):
    """The best subnetwork."""

    def classify(self, pixels: Pixels) -> int:
        """Return the class of an image; is called in a thread of its own."""

    def close(self) -> None:
        """End it; a call that is under way fails soon."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer to compare."""

    pixels: Pixels
    subnetwork: str
    class_id: int


class Agreement:
    """Compares answers with those of the best subnetwork. To be made, used and closed on one event loop.

    Args:
        classifier: the best subnetwork; is closed with this.
        best: its name.
        share: of the answers that are compared; they are taken evenly.
        is_idle: whether no request is at work.
        record: is told the subnetwork of each answer compared, and whether it agrees.
        on_failure: is given the exception of a comparison that failed; it was the last one.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        best: str,
        share: float,
        is_idle: Callable[[], bool],
        record: Callable[[str, bool], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._classifier = classifier
        self._best = best
        self._share = share
        self._is_idle = is_idle
        self._record = record
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "compare")
        self._waiting: deque[Sample] = deque(maxlen=MOST_WAITING)
        self._credit = 0.0
        self._is_busy = False
        self._is_closed = False

    def answered(self, pixels: Pixels, subnetwork: str, probabilities: bytes) -> None:
        """Take note of an answer, float32 (classes,)."""
        self._credit += self._share
        if self._credit >= 1.0 and not self._is_closed:
            self._credit -= 1.0
            class_id = int(np.frombuffer(probabilities, np.float32).argmax())
            self._waiting.append(Sample(pixels, subnetwork, class_id))
        if self._waiting:
            self._go_on()

    def close(self) -> None:
        """End the process and the thread."""
        self._is_closed = True
        self._waiting.clear()
        self._classifier.close()
        self._thread.shutdown()

    def _go_on(self) -> None:
        """Compare the next answer if nothing else is to do."""
        while self._waiting and not self._is_busy and self._is_idle():
            sample = self._waiting.popleft()
            if sample.subnetwork == self._best:
                self._record(sample.subnetwork, True)
                continue
            self._is_busy = True
            comparison = self._loop.run_in_executor(
                self._thread, self._classifier.classify, sample.pixels
            )
            comparison.add_done_callback(partial(self._compared, sample))

    def _compared(self, sample: Sample, comparison: "asyncio.Future[int]") -> None:
        self._is_busy = False
        error = comparison.exception()
        if error is None:
            self._record(sample.subnetwork, comparison.result() == sample.class_id)
            self._go_on()
        elif not self._is_closed:
            self.close()
            self._on_failure(error)
