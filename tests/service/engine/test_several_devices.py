"""Work goes to all devices; one that fails or hangs is lost, and the others answer."""

import asyncio
import time
from threading import Event

import pytest

from service.engine.devices.worker import Worker
from service.problems import InternalError
from tests.service.engine.dispatching import Machine, ask, asked, dispatching

pytestmark = pytest.mark.anyio


async def test_work_goes_to_both_of_two_devices() -> None:
    one, other = Machine(), Machine()

    async with dispatching(one, other) as dispatcher:
        waiting = []
        for machine in (one, other):
            waiting.append(ask(dispatcher, subnetwork="deep"))
            await asyncio.to_thread(machine.begun.wait)
        assert one.runs == other.runs == [("deep", 1)]
        one.go.set()
        other.go.set()
        await asyncio.gather(*waiting)


async def test_a_device_whose_runs_fail_is_lost_and_the_other_answers() -> None:
    broken, sound = Machine(), Machine()
    broken.failure = RuntimeError("an illegal memory access was encountered")
    broken.go.set()
    sound.go.set()
    lost: list[int] = []

    async with dispatching(broken, sound, on_broken=lost.append) as dispatcher:
        for _ in range(3):
            with pytest.raises(InternalError):
                await ask(dispatcher)
        dispatcher.lose(*lost)
        answers = await asyncio.gather(*(ask(dispatcher) for _ in range(4)))

    assert lost == [0]
    assert {each.subnetwork for each in answers} == {"deep"}
    assert len(broken.runs) == 3


async def test_what_runs_on_a_device_that_hangs_fails_and_the_other_answers() -> None:
    hanging, sound = Machine(), Machine()
    sound.go.set()

    async with dispatching(hanging, sound) as dispatcher:
        stuck = ask(dispatcher, subnetwork="deep")
        await asyncio.to_thread(hanging.begun.wait)

        dispatcher.lose(0)
        with pytest.raises(InternalError, match="its run hangs"):
            await stuck
        assert (await ask(dispatcher)).subnetwork == "deep"
        hanging.go.set()  # what it answers now has no one to go to
        assert (await ask(dispatcher)).subnetwork == "deep"

    assert len(hanging.runs) == 1


async def test_a_run_hangs_that_takes_far_longer_than_expected() -> None:
    now = 100.0
    worker, go = Worker(clock=lambda: now), Event()

    worker.start(lambda: None, 0.1)
    worker.start(lambda: assert_comes(go), 0.1)
    worker.start(lambda: None, 60.0)

    now += 0.5
    assert not worker.seems_to_hang(now)
    assert worker.seems_to_hang(now + 10)
    go.set()
    worker.close()
    assert not worker.seems_to_hang(now + 1000)


async def test_a_warm_up_may_take_any_time() -> None:
    worker, go = Worker(), Event()

    warm_up = asyncio.create_task(worker.call(go.wait))
    await asked()

    assert not worker.seems_to_hang(time.monotonic() + 3600)
    go.set()
    assert await warm_up
    worker.close()


def assert_comes(event: Event) -> None:
    assert event.wait(timeout=30)
