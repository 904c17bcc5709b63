"""How often a subnetwork says what the best one says: the accuracy that needs no labels.

A share of the answered images is run again in the best subnetwork. That never delays a request: it begins only while
none is at work, and happens on the CPU in a process of the lowest priority, which runs only where a core has nothing else to
do. A thread of that kind in the server would not do: it can lose its core while it holds the interpreter's lock, and then
the whole server waits.
"""

import asyncio
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from model.bundle import Bundle, read_bundle
from model.images import Pixels
from service.engine.devices.cpu import Split, open_cpu_devices

MOST_WAITING = 64  # images that wait for an idle moment; beyond, the oldest give way
CLASS_BYTES = 4
PACKAGES = Path(__file__).parents[2]

# Out of everybody's way before anything is imported, which takes a core for half a second.
START = """
import os, sys
sys.path[0] = sys.argv.pop(1)  # in place of the current folder, which may hold a ``service`` or ``model`` of its own
if hasattr(os, "SCHED_IDLE"):  # Linux
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
else:
    os.nice(19)
from service.engine.shadow import main
sys.exit(main())
"""


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


class Aside:
    """The server's end of the process: starts it; it ends with the server or by ``close``."""

    def __init__(self, bundle: Bundle, subnetwork: str) -> None:
        self.subnetwork = subnetwork
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, PACKAGES, bundle.folder, bundle.digest, subnetwork],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server
        )

    def classify(self, pixels: Pixels) -> int:
        """Return the class of an image, however long that takes.

        Raises:
            OSError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(pixels.tobytes())
        self._process.stdin.flush()
        answer = self._process.stdout.read(CLASS_BYTES)
        if len(answer) < CLASS_BYTES:
            raise OSError("the process for comparisons has ended")
        return int.from_bytes(answer, "big")

    def close(self) -> None:
        """End the process; a call of ``classify`` that waits for it fails."""
        self._process.kill()
        self._process.wait()


def main() -> int:
    """Answer images from stdin, (H, W, 3) bytes each, with classes on stdout, until stdin ends."""
    folder, digest, subnetwork = sys.argv[1:]
    bundle = read_bundle(Path(folder))
    if bundle.digest != digest:  # the server has verified another one
        return 1
    manifest = bundle.manifest
    alone = [
        each.in_int8 or each  # as the server mostly runs it: on most processors the faster
        for each in manifest.subnetworks
        if each.name == subnetwork
    ]
    bundle = replace(bundle, manifest=manifest.model_copy(update={"subnetworks": alone}))
    (device,) = open_cpu_devices(bundle, Split(devices=1, threads=1))
    size = manifest.preprocessing.size
    while image := sys.stdin.buffer.read(size * size * 3):
        pixels = np.frombuffer(image, np.uint8).reshape(size, size, 3)
        class_id = int(device.run(subnetwork, [pixels]).argmax())
        sys.stdout.buffer.write(class_id.to_bytes(CLASS_BYTES, "big"))
        sys.stdout.buffer.flush()
    return 0
