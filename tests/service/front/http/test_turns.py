"""Bodies that come at once: a few parts of large ones in each look at the sockets, the oldest request's first."""

import asyncio

import pytest

from service.front.http.turns import PARTS_A_LOOK, Turns

pytestmark = pytest.mark.anyio


class Body:
    """A connection on which a body of so many parts comes; each part is there at once."""

    def __init__(self, turns: Turns, arrived_at: float, parts: int, read: list[float]) -> None:
        self._turns = turns
        self._arrived_at = arrived_at
        self._left = parts
        self._read = read

    def come(self) -> None:
        """Have the socket report a part."""
        self._left -= 1
        self._read.append(self._arrived_at)
        if not self._turns.must_wait(self, self._arrived_at) and self._left:
            self.read_on()

    def read_on(self) -> None:
        if self._left:
            asyncio.get_running_loop().call_soon(self.come)


async def test_a_few_bodies_wait_for_nobody() -> None:
    turns, read = Turns(), list[float]()
    bodies = [Body(turns, float(n), 1, read) for n in range(PARTS_A_LOOK)]

    for each in bodies:
        assert not turns.must_wait(each, 0.0)


async def test_of_many_bodies_a_few_parts_are_read_in_each_look_and_the_oldest_are_whole_first() -> (
    None
):
    turns, read = Turns(), list[float]()
    newest_first = [Body(turns, float(n), 3, read) for n in reversed(range(40))]
    for each in newest_first:
        each.come()
    seen = len(read)

    looks = []
    while len(read) < 3 * 40:
        before = len(read)
        await asyncio.sleep(0)
        looks.append(len(read) - before)

    assert seen == 40  # the first part of each was read before
    assert max(looks[PARTS_A_LOOK:]) <= 2 * PARTS_A_LOOK
    last = {arrived_at: place for place, arrived_at in enumerate(read)}
    whole = sorted(last, key=last.__getitem__)
    waited = [each for each in whole if each < 40 - PARTS_A_LOOK]
    assert waited == sorted(waited)
