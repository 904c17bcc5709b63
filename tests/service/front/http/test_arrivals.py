"""A request is as old as the loop's last look at the sockets, unless its connection tells better."""

from math import inf

from service.front.http.arrivals import JUST_S, Arrivals


def look(arrivals: Arrivals, now: float, replied_at: float = -inf) -> float:
    """Read one request in a look of its own."""
    arrived_at, is_first = arrivals.read(now, replied_at=replied_at)
    assert is_first
    arrivals.looked()
    return arrived_at


def test_an_idle_loop_reads_a_request_as_it_arrives() -> None:
    arrivals = Arrivals()
    look(arrivals, 1.0)
    arrivals.worked(1.01)

    assert look(arrivals, 1.5) == 1.5


def test_what_is_read_right_after_work_counts_from_the_look_before() -> None:
    arrivals = Arrivals()
    look(arrivals, 1.0)
    arrivals.worked(1.01)

    assert look(arrivals, 1.01 + JUST_S / 2) == 1.0


def test_what_comes_after_a_thread_has_woken_the_loop_counts_from_there() -> None:
    arrivals = Arrivals()
    look(arrivals, 1.0)
    arrivals.woke(1.2)  # a run ended; till then the loop slept
    arrivals.worked(1.21)

    assert look(arrivals, 1.21 + JUST_S / 2) == 1.2


def test_a_thread_that_calls_within_a_look_makes_nothing_younger() -> None:
    arrivals = Arrivals()
    arrivals.read(1.0, replied_at=-inf)
    arrivals.woke(1.2)
    arrivals.looked()
    arrivals.worked(1.21)

    assert look(arrivals, 1.21 + JUST_S / 2) == 1.0


def test_a_caller_that_had_a_reply_cannot_have_asked_before() -> None:
    arrivals = Arrivals()
    look(arrivals, 1.0)
    arrivals.worked(1.01)

    assert look(arrivals, 1.01 + JUST_S / 2, replied_at=1.01) == 1.01


def test_all_of_a_look_are_equally_old() -> None:
    arrivals = Arrivals()
    look(arrivals, 1.0)
    arrivals.worked(1.01)

    first, _ = arrivals.read(1.01001, replied_at=-inf)
    second, is_first = arrivals.read(1.0105, replied_at=-inf)

    assert (first, second, is_first) == (1.0, 1.0, False)
