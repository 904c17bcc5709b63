import asyncio
from collections.abc import Callable
from math import inf

import pytest

from service.front.http.inbox import (
    A_LOOK,
    JUST_S,
    LATEST_TURN_S,
    LOOK_S,
    SHEDS_EACH,
    Arrivals,
    Inbox,
)

pytestmark = pytest.mark.anyio


class Flood:
    """Connections whose requests are lost if they arrived before an instant, in an inbox that says what became of each."""

    def __init__(
        self, lost_before: float = 0.0, deadline_s: float = 1e9, cost_s: float = 1e-6
    ) -> None:
        self.lost_before = lost_before
        self.free_until = -inf  # what is due earlier can be answered
        self._deadline_s = deadline_s
        self.cost_s = cost_s  # of handling a request
        self.now = 0.0
        self.inbox = Inbox(self, clock=lambda: self.now)
        self.handled: list[tuple[bytes, bool]] = []

    def met_from(self, due_at: float, now: float) -> float:
        return self.lost_before + self._deadline_s if due_at >= self.free_until else -inf

    def deadline_s(self) -> float:
        return self._deadline_s

    def connection(self, then: Callable[[], None] = lambda: None) -> "Client":
        return Client(self, then)

    def names(self) -> list[int]:
        return [int(data) for data, _ in self.handled]


class Client:
    def __init__(self, flood: Flood, then: Callable[[], None]) -> None:
        self._flood = flood
        self._then = then

    def read(self, data: bytes, arrived_at: float, *, lost_within_s: float) -> None:
        self._flood.handled.append((data, lost_within_s > 0))
        self._flood.now += self._flood.cost_s
        self._then()


async def look() -> None:
    await asyncio.sleep(0)


async def test_a_request_alone_is_handled_at_once() -> None:
    flood = Flood()

    flood.inbox.offer(flood.connection(), b"0", 1.0)

    assert flood.handled == [(b"0", False)]


async def test_a_look_handles_a_few_and_replies_go_out_before_the_next() -> None:
    flood = Flood()
    for n in range(3 * A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)

    assert len(flood.handled) == A_LOOK
    await look()
    assert len(flood.handled) == 2 * A_LOOK
    await look()
    assert flood.names() == list(range(3 * A_LOOK))
    assert len(flood.inbox) == 0


async def test_where_they_take_long_fewer_are_handled_before_replies_go_out() -> None:
    flood = Flood(cost_s=LOOK_S)
    for n in range(200):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)

    before, a_look = 0, []
    while len(flood.inbox):
        await look()
        a_look.append(len(flood.handled) - before)
        before = len(flood.handled)

    assert a_look[0] == 2 * A_LOOK  # with those of the first look
    assert a_look == sorted(a_look, reverse=True)
    assert set(a_look[-9:]) == {1}


async def test_of_what_waits_the_most_urgent_is_handled_first() -> None:
    flood = Flood(deadline_s=1.0)
    for n in range(2 * A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    for n, deadline_s in ((90, 3.0), (91, 0.1), (92, 0.2)):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.5, deadline_s)
    flood.handled.clear()
    while len(flood.inbox):
        await look()

    assert flood.names() == [91, 92, 4, 5, 6, 7, 90]


async def test_what_can_wait_is_not_shed_for_the_deadline_of_others() -> None:
    flood = Flood(lost_before=2.0, deadline_s=0.01)
    for n in range(2 * A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    flood.inbox.offer(flood.connection(), b"99", 1.0, 3.0)
    while len(flood.inbox):
        await look()

    assert flood.handled[A_LOOK:] == [(b"%d" % n, True) for n in range(A_LOOK, 2 * A_LOOK)] + [
        (b"99", False)
    ]


async def test_what_is_due_before_those_that_are_lost_is_not_shed_with_them() -> None:
    flood = Flood(lost_before=2.0, deadline_s=1.0)
    flood.free_until = 1.5
    for n in range(2 * A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    await look()
    flood.handled.clear()
    flood.inbox.offer(flood.connection(), b"98", 1.0)
    flood.inbox.offer(flood.connection(), b"99", 1.0, 0.04)
    while len(flood.inbox):
        await look()

    assert flood.handled == [(b"98", True), (b"99", False)]


async def test_who_has_long_waits_a_second_for_those_who_have_less() -> None:
    flood = Flood()
    for n in range(A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    flood.inbox.offer(flood.connection(), b"90", 1.0, 3600.0)
    flood.inbox.offer(flood.connection(), b"91", 1.0 + 0.9 * LATEST_TURN_S, 0.05)
    flood.inbox.offer(flood.connection(), b"92", 1.0 + LATEST_TURN_S, 0.05)
    while len(flood.inbox):
        await look()

    assert flood.names()[A_LOOK:] == [91, 90, 92]


async def test_what_is_lost_is_shed_beside_what_is_handled() -> None:
    flood = Flood(lost_before=2.0)
    for n in range(A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 3.0)
    for n in range(SHEDS_EACH * A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    flood.inbox.offer(flood.connection(), b"99", 3.0)
    await look()
    await look()

    assert [is_lost for _, is_lost in flood.handled[A_LOOK:]] == [True] * SHEDS_EACH * A_LOOK + [
        False
    ]


async def test_what_comes_next_is_shed_at_once_if_it_is_lost_too() -> None:
    flood = Flood(lost_before=2.0)
    for n in range(2 * A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    await look()
    flood.handled.clear()

    flood.inbox.offer(flood.connection(), b"1", 1.0)
    flood.inbox.offer(flood.connection(), b"2", 3.0)

    assert flood.handled == [(b"1", True), (b"2", False)]


async def test_where_nothing_waits_nothing_is_shed() -> None:
    flood = Flood(lost_before=2.0)

    flood.inbox.offer(flood.connection(), b"0", 1.0)
    await look()
    flood.inbox.offer(flood.connection(), b"1", 1.0)

    assert flood.handled == [(b"0", False), (b"1", False)]


async def test_where_more_is_lost_than_can_be_shed_the_newest_is_handled() -> None:
    flood = Flood(lost_before=2.0)
    for n in range(A_LOOK + SHEDS_EACH * A_LOOK + 10):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    for n in range(90, 90 + A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 3.0)
    await look()

    assert len(flood.handled) == A_LOOK + SHEDS_EACH * A_LOOK + A_LOOK
    assert [(int(data), is_lost) for data, is_lost in flood.handled[-A_LOOK:]] == [
        (n, False) for n in reversed(range(90, 90 + A_LOOK))
    ]


async def test_where_one_more_would_be_late_it_is_shed_at_once() -> None:
    flood = Flood(deadline_s=1e-9)
    for n in range(3 * A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    await look()  # what a request costs is known from here on
    await look()
    flood.handled.clear()
    for n in range(A_LOOK + 1):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    flood.inbox.offer(flood.connection(), b"99", 1.0)

    assert flood.handled[-1] == (b"99", True)


async def test_more_of_what_waits_is_put_to_it() -> None:
    flood = Flood()
    for n in range(A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    slow = flood.connection()
    flood.inbox.offer(slow, b"1", 1.0)
    flood.inbox.offer(slow, b"2", 2.0)
    await look()

    assert flood.handled[-1] == (b"12", False)


async def test_what_waits_of_a_connection_that_ends_is_handled() -> None:
    flood = Flood()
    for n in range(A_LOOK):
        flood.inbox.offer(flood.connection(), b"%d" % n, 1.0)
    ended = flood.connection()
    flood.inbox.offer(ended, b"88", 1.0)
    flood.inbox.handle_now(ended)
    await look()

    assert flood.names()[A_LOOK:] == [88]


# Since when: a request is as old as the loop's last look at the sockets, unless its connection tells better.


def read_one(arrivals: Arrivals, now: float, replied_at: float = -inf) -> float:
    """Read one request in a look of its own."""
    arrived_at, is_first = arrivals.read(now, replied_at=replied_at)
    assert is_first
    arrivals.looked()
    return arrived_at


def test_an_idle_loop_reads_a_request_as_it_arrives() -> None:
    arrivals = Arrivals()
    read_one(arrivals, 1.0)
    arrivals.worked(1.01)

    assert read_one(arrivals, 1.5) == 1.5


def test_what_is_read_right_after_work_counts_from_the_look_before() -> None:
    arrivals = Arrivals()
    read_one(arrivals, 1.0)
    arrivals.worked(1.01)

    assert read_one(arrivals, 1.01 + JUST_S / 2) == 1.0


def test_what_comes_after_a_thread_has_woken_the_loop_counts_from_there() -> None:
    arrivals = Arrivals()
    read_one(arrivals, 1.0)
    arrivals.woke(1.2)  # a run ended; till then the loop slept
    arrivals.worked(1.21)

    assert read_one(arrivals, 1.21 + JUST_S / 2) == 1.2


def test_a_thread_that_calls_within_a_look_makes_nothing_younger() -> None:
    arrivals = Arrivals()
    arrivals.read(1.0, replied_at=-inf)
    arrivals.woke(1.2)
    arrivals.looked()
    arrivals.worked(1.21)

    assert read_one(arrivals, 1.21 + JUST_S / 2) == 1.0


def test_a_caller_that_had_a_reply_cannot_have_asked_before() -> None:
    arrivals = Arrivals()
    read_one(arrivals, 1.0)
    arrivals.worked(1.01)

    assert read_one(arrivals, 1.01 + JUST_S / 2, replied_at=1.01) == 1.01


def test_all_of_a_look_are_equally_old() -> None:
    arrivals = Arrivals()
    read_one(arrivals, 1.0)
    arrivals.worked(1.01)

    first, _ = arrivals.read(1.01001, replied_at=-inf)
    second, is_first = arrivals.read(1.0105, replied_at=-inf)

    assert (first, second, is_first) == (1.0, 1.0, False)
