import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Event

import numpy as np
import pytest

from model.images import Pixels
from service.engine.shadow import MOST_WAITING, Agreement
from tests.server import ServerProcess

pytestmark = pytest.mark.anyio


def image(class_id: int) -> Pixels:
    """Return an image that the best subnetwork takes for that class."""
    return np.full((2, 2, 3), class_id, np.uint8)


class Comparing:
    """An agreement whose best subnetwork waits until it is let go, and what came of it."""

    def __init__(self, share: float) -> None:
        self.is_idle = True
        self.go = Event()
        self.began: asyncio.Queue[int] = asyncio.Queue()
        self.verdicts: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self.failures: asyncio.Queue[BaseException] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.agreement = Agreement(
            self,
            best="full",
            share=share,
            is_idle=lambda: self.is_idle,
            record=lambda *verdict: self.verdicts.put_nowait(verdict),
            on_failure=self.failures.put_nowait,
        )

    def close(self) -> None:
        self.go.set()

    def classify(self, pixels: Pixels) -> int:
        class_id = int(pixels[0, 0, 0])
        self._loop.call_soon_threadsafe(self.began.put_nowait, class_id)
        assert self.go.wait(timeout=30)
        if class_id == 255:
            raise RuntimeError("out of memory")
        return class_id


def answer(class_id: int) -> bytes:
    """The probabilities of an answer, 0 for all other classes."""
    probabilities: bytes = np.eye(256, dtype=np.float32)[class_id].tobytes()
    return probabilities


@asynccontextmanager
async def comparing(share: float = 1.0) -> AsyncIterator[Comparing]:
    it = Comparing(share)
    try:
        yield it
    finally:
        it.go.set()
        it.agreement.close()


async def test_an_answer_agrees_with_the_best_subnetwork_or_differs() -> None:
    async with comparing() as it:
        it.go.set()
        it.agreement.answered(image(3), "column-1", answer(3))
        it.agreement.answered(image(3), "column-2", answer(4))

        assert await it.verdicts.get() == ("column-1", True)
        assert await it.verdicts.get() == ("column-2", False)


async def test_the_best_subnetwork_agrees_with_itself_without_a_run() -> None:
    async with comparing() as it:
        it.agreement.answered(image(3), "full", answer(3))

        assert it.verdicts.get_nowait() == ("full", True)
        assert it.began.empty()


async def test_nothing_is_compared_while_requests_are_at_work() -> None:
    async with comparing() as it:
        it.go.set()
        it.is_idle = False
        it.agreement.answered(image(3), "column-1", answer(3))
        it.agreement.answered(image(3), "full", answer(3))
        assert it.verdicts.empty()

        it.is_idle = True
        it.agreement.answered(image(4), "column-2", answer(4))

        assert await it.verdicts.get() == ("column-1", True)
        assert await it.verdicts.get() == ("full", True)
        assert await it.verdicts.get() == ("column-2", True)


async def test_only_one_comparison_runs_and_the_oldest_that_wait_give_way() -> None:
    async with comparing() as it:
        for class_id in range(MOST_WAITING + 3):
            it.agreement.answered(image(class_id), "column-1", answer(class_id))
        assert await it.began.get() == 0
        it.go.set()
        for _ in range(MOST_WAITING + 1):
            await it.verdicts.get()

        began = [it.began.get_nowait() for _ in range(MOST_WAITING)]
        assert began == list(range(3, MOST_WAITING + 3))


async def test_a_share_is_compared() -> None:
    async with comparing(share=0.25) as it:
        it.go.set()
        for class_id in range(8):
            it.agreement.answered(image(class_id), "column-1", answer(class_id))
        for _ in range(2):
            await it.verdicts.get()

        assert [it.began.get_nowait() for _ in range(2)] == [3, 7]


async def test_a_comparison_that_fails_is_reported_and_is_the_last() -> None:
    async with comparing() as it:
        it.go.set()
        it.agreement.answered(image(255), "column-1", answer(1))
        it.agreement.answered(image(3), "column-1", answer(3))
        assert str(await it.failures.get()) == "out of memory"

        it.agreement.answered(image(3), "full", answer(3))

        assert it.verdicts.empty()


def test_the_server_counts_agreement_by_subnetwork(
    start_server: Callable[..., ServerProcess], jpeg: bytes
) -> None:
    server = start_server(agreement_sample=1)
    server.wait_for("ready")

    def compared(subnetwork: str) -> float:
        series = f'anytime_agreement_total{{model="cifar10",subnetwork="{subnetwork}",verdict='
        return sum(value for name, value in server.metrics().items() if name.startswith(series))

    while not compared("narrow-column-1"):  # in its own time
        server.classify(jpeg, subnetwork="narrow-column-1")
    assert not compared("wide-full-mirrored")
