import asyncio
import time

import pytest

from service.engine.timer import Timer

pytestmark = pytest.mark.anyio


async def test_it_rings_on_the_event_loop_not_before_its_instant() -> None:
    rung: asyncio.Queue[float] = asyncio.Queue()
    timer = Timer(lambda: rung.put_nowait(time.monotonic()), time.monotonic)

    for _ in range(3):
        at = time.monotonic() + 0.002
        timer.set(at)
        assert await rung.get() >= at

    timer.close()


async def test_a_sooner_instant_takes_the_place_of_a_later_one() -> None:
    rung = asyncio.Event()
    timer = Timer(rung.set, time.monotonic)

    timer.set(time.monotonic() + 3600)
    timer.set(time.monotonic() + 0.001)

    await rung.wait()
    timer.close()


async def test_it_rings_once() -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    rung: list[None] = []
    loop = asyncio.get_running_loop()

    def clock() -> float:
        loop.call_soon_threadsafe(asked.put_nowait, None)
        return 1.0

    timer = Timer(lambda: rung.append(None), clock)
    await asked.get()  # nothing is set
    timer.set(0.5)
    for _ in range(2):
        await asked.get()  # when it rings, and when it looks what is next

    timer.set(0.9)
    for _ in range(2):
        await asked.get()

    assert len(rung) == 2
    timer.close()


async def test_an_instant_too_far_for_a_thread_to_wait_for_breaks_nothing() -> None:
    now = 0.0
    rung: asyncio.Queue[None] = asyncio.Queue()
    timer = Timer(lambda: rung.put_nowait(None), lambda: now)

    timer.set(1e10)
    now = 1.0
    timer.set(0.5)

    await rung.get()
    timer.close()


async def test_it_can_be_called_off() -> None:
    now = 0.0
    rung: asyncio.Queue[None] = asyncio.Queue()
    timer = Timer(lambda: rung.put_nowait(None), lambda: now)

    timer.set(1.0)
    timer.set(None)
    now = 2.0
    timer.close()

    assert rung.empty()
