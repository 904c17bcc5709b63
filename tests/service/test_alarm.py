import asyncio
import time

import pytest

from service.alarm import Alarm

pytestmark = pytest.mark.anyio


async def test_it_rings_on_the_event_loop_not_before_its_instant() -> None:
    rung: asyncio.Queue[float] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(time.monotonic()), time.monotonic)

    for _ in range(3):
        at = time.monotonic() + 0.002
        alarm.set(at)
        assert await rung.get() >= at

    alarm.close()


async def test_a_sooner_instant_takes_the_place_of_a_later_one() -> None:
    rung = asyncio.Event()
    alarm = Alarm(rung.set, time.monotonic)

    alarm.set(time.monotonic() + 3600)
    alarm.set(time.monotonic() + 0.001)

    await rung.wait()
    alarm.close()


async def test_it_rings_once() -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    rung: list[None] = []
    loop = asyncio.get_running_loop()

    def clock() -> float:
        loop.call_soon_threadsafe(asked.put_nowait, None)
        return 1.0

    alarm = Alarm(lambda: rung.append(None), clock)
    await asked.get()  # nothing is set
    alarm.set(0.5)
    for _ in range(2):
        await asked.get()  # when it rings, and when it looks what is next

    alarm.set(0.9)
    for _ in range(2):
        await asked.get()

    assert len(rung) == 2
    alarm.close()


async def test_an_instant_too_far_for_a_thread_to_wait_for_breaks_nothing() -> None:
    now = 0.0
    rung: asyncio.Queue[None] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(None), lambda: now)

    alarm.set(1e10)
    now = 1.0
    alarm.set(0.5)

    await rung.get()
    alarm.close()


async def test_it_can_be_called_off() -> None:
    now = 0.0
    rung: asyncio.Queue[None] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(None), lambda: now)

    alarm.set(1.0)
    alarm.set(None)
    now = 2.0
    alarm.close()

    assert rung.empty()
