import asyncio
import socket
from collections.abc import AsyncIterator

import numpy as np
import pytest

from service.front.engine_client import ASKED_TOGETHER, HELD_WITHIN_S, EngineClient
from service.hop import Ask, FrameReader, Kind

pytestmark = pytest.mark.anyio


class Crowd:
    """A front that asks an engine, as many times as wanted, while others wait to be read; and what the engine is sent."""

    def __init__(self) -> None:
        self.waiting = 0
        self.now = 0.0
        self.client: EngineClient
        self.asking: list[asyncio.Task[object]] = []
        self._reader = FrameReader()

    async def __aenter__(self) -> "Crowd":
        self.client = EngineClient(
            open_served=lambda *_: pytest.fail("nothing is served"),
            open_serving=lambda *_: pytest.fail("nothing is served"),
            on_flush=lambda: None,
            waiting=lambda: self.waiting,
            clock=lambda: self.now,
        )
        await self.connect()
        return self

    async def connect(self) -> None:
        """Have an engine, instead of the one before."""
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.client, sock=self._ours)

    async def lose_engine(self) -> None:
        self._theirs.close()
        await self.client.lost()

    async def __aexit__(self, *_: object) -> None:
        for each in self.asking:
            each.cancel()
        await asyncio.gather(*self.asking, return_exceptions=True)
        self.client.close()
        self._theirs.close()

    async def ask(self, deadline_s: float = 3600.0) -> None:
        ask = Ask(1, self.now, self.now + deadline_s, "answer", "none", None, float("inf"), False)
        answer = self.client.answer(ask, np.zeros((1, 1, 3), np.uint8))
        self.asking.append(asyncio.ensure_future(answer))
        for _ in range(3):  # looks of a front in which others wait
            await asyncio.sleep(0)

    async def hold(self) -> None:
        """Have a request asked, and one more held since others wait."""
        await self.ask()
        self.waiting = 100
        await self.ask()

    def sent(self) -> int:
        """Return how many asks the engine was sent since this or ``kinds`` was asked last."""
        return sum(kind == Kind.ASK for kind in self.kinds())

    def kinds(self) -> list[int]:
        """Return what the engine was sent."""
        try:
            data = self._theirs.recv(1 << 20)
        except BlockingIOError:
            return []
        return [kind for kind, _, _ in self._reader.feed(data)]


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    async with Crowd() as crowd:
        yield crowd


async def test_a_lone_request_is_asked_at_once(crowd: Crowd) -> None:
    await crowd.ask()
    assert crowd.sent() == 1


async def test_requests_are_asked_together_once_no_other_waits_to_be_read(crowd: Crowd) -> None:
    await crowd.ask()
    crowd.sent()
    crowd.waiting = 2
    await crowd.ask()
    await crowd.ask()
    assert crowd.sent() == 0
    crowd.waiting = 0
    await crowd.ask()
    assert crowd.sent() == 3


async def test_while_others_wait_so_many_are_asked_together_and_no_more(crowd: Crowd) -> None:
    await crowd.ask()
    crowd.sent()
    crowd.waiting = 100
    for _ in range(ASKED_TOGETHER - 1):
        await crowd.ask()
        assert crowd.sent() == 0
    await crowd.ask()
    assert crowd.sent() == ASKED_TOGETHER


async def test_nothing_is_held_for_long_however_long_its_deadline_is(crowd: Crowd) -> None:
    await crowd.ask()
    crowd.sent()
    crowd.waiting = 100
    await crowd.ask(deadline_s=86_400.0)
    assert crowd.sent() == 0
    crowd.now += HELD_WITHIN_S
    await asyncio.sleep(0)
    assert crowd.sent() == 1


async def test_the_engine_hears_of_a_held_request_before_it_hears_that_its_client_has_gone(
    crowd: Crowd,
) -> None:
    await crowd.hold()
    crowd.asking[1].cancel()
    await asyncio.gather(crowd.asking[1], return_exceptions=True)
    await asyncio.sleep(0)
    assert crowd.kinds() == [Kind.ASK, Kind.ASK, Kind.GONE]


async def test_what_was_held_for_an_engine_that_has_ended_is_not_asked_of_the_next(
    crowd: Crowd,
) -> None:
    await crowd.hold()
    await crowd.lose_engine()
    await crowd.connect()
    await crowd.ask()
    assert crowd.sent() == 1


async def test_a_request_whose_time_is_up_is_asked_at_once_with_those_that_were_held(
    crowd: Crowd,
) -> None:
    await crowd.hold()
    assert crowd.sent() == 1
    await crowd.ask(deadline_s=0.0)
    assert crowd.sent() == 2


async def test_an_engine_that_gives_no_sign_of_life_is_told_that_nobody_waits_for_what_was_held(
    crowd: Crowd,
) -> None:
    await crowd.hold()
    crowd.client.look(is_alive=False)
    crowd.client.look(is_alive=True)
    crowd.waiting = 0
    await crowd.ask()
    kinds = [kind for kind in crowd.kinds() if kind in (Kind.ASK, Kind.GONE)]
    assert kinds == [Kind.ASK, Kind.ASK, Kind.GONE, Kind.GONE, Kind.ASK]
