from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.decoding import DecodeQueue, Turn

PIXELS = 1_000_000
TAKES_S = 0.01


def experienced(at_a_time: int = 1) -> DecodeQueue:
    """Return a queue that has seen its images take 10 ms each."""
    queue = DecodeQueue(at_a_time)
    for each in range(100):
        decode(queue, each * TAKES_S)
    return queue  # and it is 1.0


def decode(
    queue: DecodeQueue, now: float, took_s: float = TAKES_S, reached_after_s: float = 0.0
) -> None:
    """Have an image decoded that comes alone, and reaches its caller a while later."""
    turn = admitted(queue, now)
    assert queue.begin(now) is turn
    queue.end(turn, now + took_s, is_decoded=True)
    queue.leave(turn, now + took_s + reached_after_s, is_decoded=True)


def admitted(queue: DecodeQueue, now: float, in_time_by: float = inf) -> Turn:
    turn = queue.admit("JPEG", PIXELS, now, in_time_by=in_time_by, of_use_by=in_time_by)
    assert turn is not None
    return turn


def test_what_could_not_be_decoded_in_time_behind_the_others_is_refused() -> None:
    queue = experienced()

    outcomes = [queue.admit("JPEG", PIXELS, 1.0, in_time_by=1.1, of_use_by=1.1) for _ in range(20)]

    taken = [each for each in outcomes if each is not None]
    assert outcomes[: len(taken)] == taken
    assert 0.08 / TAKES_S <= len(taken) < 0.1 / TAKES_S


def test_what_keeps_images_from_their_callers_is_left_as_a_margin() -> None:
    def taken(queue: DecodeQueue, now: float) -> int:
        while queue.admit("JPEG", PIXELS, now, in_time_by=now + 0.1, of_use_by=now + 0.1):
            pass
        return len(queue)

    kept = experienced()
    for each in range(100, 300):  # by a busy event loop, say
        decode(kept, each * TAKES_S, reached_after_s=0.05)

    assert taken(kept, 3.0) < 0.5 * taken(experienced(), 1.0)


def test_a_decoder_that_has_had_nothing_to_do_for_a_while_takes_any_image_and_has_no_margin() -> (
    None
):
    queue = experienced()
    for each in range(100, 300):
        decode(queue, each * TAKES_S, reached_after_s=0.05)

    assert queue.admit("JPEG", PIXELS, 3.0, in_time_by=3.001, of_use_by=3.001) is None
    assert queue.admit("JPEG", PIXELS, 4.0, in_time_by=4.001, of_use_by=4.001) is not None
    assert queue.admit("JPEG", PIXELS, 4.0, in_time_by=4.001, of_use_by=4.001) is None
    assert queue.admit("JPEG", PIXELS, 4.0, in_time_by=4.03, of_use_by=4.03) is not None


def test_an_image_alone_is_taken_though_it_will_be_late_but_not_in_a_flood() -> None:
    queue = experienced()
    decode(queue, 3.0)

    assert (
        queue.admit("JPEG", PIXELS, 3.02, in_time_by=3.021, of_use_by=3.021) is None
    )  # may not be
    assert queue.admit("JPEG", PIXELS, 3.02, in_time_by=3.021, of_use_by=3.022) is not None

    queue = experienced()
    decode(queue, 3.0)
    for _ in range(20):  # refused
        queue.admit("JPEG", PIXELS, 3.01, in_time_by=3.0, of_use_by=3.0)
    assert queue.admit("JPEG", PIXELS, 3.02, in_time_by=3.021, of_use_by=3.022) is None


def test_two_at_a_time_are_done_in_half_of_the_time() -> None:
    def most(at_a_time: int) -> int:
        queue = experienced(at_a_time)
        while queue.admit("JPEG", PIXELS, 1.0, in_time_by=1.3, of_use_by=1.3) is not None:
            pass
        return len(queue)

    assert most(2) == pytest.approx(2 * most(1), abs=2)


def test_the_most_urgent_is_decoded_first_and_one_that_will_be_late_last() -> None:
    queue = experienced()
    later, sooner = admitted(queue, 1.0, 9.0), admitted(queue, 1.0, 5.0)
    late = queue.admit("JPEG", PIXELS, 1.0, in_time_by=1.0, of_use_by=4.0)

    order = []
    while (turn := queue.begin(1.0)) is not None:
        queue.end(turn, 1.0, is_decoded=True)
        order.append(turn)

    assert order == [sooner, later, late]


def test_late_images_are_let_in_only_in_the_time_that_arrivals_leave() -> None:
    queue = experienced()
    admitted(queue, 2.99)  # work ahead, but little load

    before = queue.admit("JPEG", PIXELS, 3.0, in_time_by=3.0, of_use_by=3.3)
    for _ in range(40):
        queue.admit("JPEG", PIXELS, 3.0, in_time_by=3.0, of_use_by=3.0)  # a flood: all are refused
    after = queue.admit("JPEG", PIXELS, 3.0, in_time_by=3.0, of_use_by=3.3)

    assert before is not None
    assert after is None


def test_where_callers_wait_long_for_what_is_decoded_no_time_is_left_for_late_images() -> None:
    def has_time(reached_after_s: float) -> bool:
        queue = experienced()
        for each in range(100):
            decode(queue, 1.0 + 0.04 * each, reached_after_s=reached_after_s)
        admitted(queue, 5.0)
        return queue.admit("JPEG", PIXELS, 5.0, in_time_by=5.0, of_use_by=5.2) is not None

    assert has_time(0.0)
    assert not has_time(0.03)


def test_images_of_a_size_or_format_of_their_own_are_predicted_by_their_own() -> None:
    queue = experienced()
    turn = queue.admit("PNG", PIXELS, 1.0, in_time_by=9.0, of_use_by=9.0)
    assert turn is not None
    queue.begin(1.0)
    queue.end(turn, 3.0, is_decoded=True)  # two seconds

    admitted(queue, 3.0)

    assert queue.admit("PNG", PIXELS, 3.0, in_time_by=4.0, of_use_by=4.0) is None
    assert queue.admit("JPEG", PIXELS, 3.0, in_time_by=4.0, of_use_by=4.0) is not None


def test_it_learns_of_an_image_that_was_given_up_only_that_it_took_longer() -> None:
    def after_giving_up(took_s: float) -> DecodeQueue:
        queue = experienced()
        for _ in range(20):
            turn = admitted(queue, 1.0)
            queue.begin(1.0)
            queue.end(turn, 1.0 + took_s, is_decoded=False)
        admitted(queue, 1.1 + took_s)
        return queue

    damaged, unwanted = after_giving_up(0.0), after_giving_up(1.0)

    assert damaged.admit("JPEG", PIXELS, 1.1, in_time_by=1.11, of_use_by=1.11) is None
    assert damaged.admit("JPEG", PIXELS, 1.1, in_time_by=1.2, of_use_by=1.2) is not None
    assert unwanted.admit("JPEG", PIXELS, 2.1, in_time_by=2.2, of_use_by=2.2) is None


@given(st.lists(st.tuples(st.sampled_from("abegx"), st.integers(0, 50)), max_size=80))
def test_whatever_comes_and_goes_each_image_is_begun_once_at_most_and_none_is_left(
    steps: list[tuple[str, int]],
) -> None:
    queue, waiting, begun, now = DecodeQueue(2), list[Turn](), list[Turn](), 0.0
    for step, ms in steps:
        now += ms / 1e3
        if step in "ab":
            by = now + (ms / 1e3 if step == "a" else inf)
            turn = queue.admit("PNG", PIXELS, now, in_time_by=by, of_use_by=by + 0.1)
            waiting += [] if turn is None else [turn]
        elif step == "g" and waiting:
            queue.leave(waiting.pop(), now, is_decoded=False)
        elif step in "ex" and begun:
            turn = begun.pop(0)
            queue.end(turn, now, is_decoded=step == "e")
            queue.leave(turn, now, is_decoded=step == "e")
        while (next_turn := queue.begin(now)) is not None:
            waiting.remove(next_turn)
            begun.append(next_turn)
        assert len(begun) <= 2
        assert len(queue) == len(waiting) + len(begun)
        assert not waiting or len(begun) == 2
