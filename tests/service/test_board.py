"""The page of memory that the server's processes share."""

import resource
from multiprocessing import get_context

import pytest

from service import board as places
from service.board import BeingWrittenError, Board, Pulse

LOOKS = 5
EDITIONS = 20_000


def test_every_process_sees_what_one_of_them_writes() -> None:
    engine = Board.create(2)
    front = Board(engine.descriptor)  # the same memory, mapped once more

    engine.publish({3: [1.5, 2.5]})
    front.set(1, places.CONNECTIONS, 7)

    assert front.fronts == 2
    assert front.published(3) == [1.5, 2.5]
    assert engine.get(1, places.CONNECTIONS) == engine.total(places.CONNECTIONS) == 7


def test_the_load_is_told_for_each_bundle_that_answers_and_for_no_other() -> None:
    board = Board.create(1)
    assert not board.has_engine
    assert board.published(3) is None

    board.publish({3: [1.0, 2.0, 3.0], 4: [5.0]})
    assert board.has_engine
    assert (board.published(3), board.published(4)) == ([1.0, 2.0, 3.0], [5.0])

    board.publish({4: [5.0], 5: [6.0, 7.0]})
    assert board.published(3) is None
    assert (board.published(4), board.published(5)) == ([5.0], [6.0, 7.0])


def test_who_has_read_the_load_sees_that_it_has_changed() -> None:
    engine = Board.create(1)
    front = Board(engine.descriptor)

    engine.publish({3: [1.0]})
    seen = front.edition
    engine.beat(1.0)
    assert front.edition == seen

    engine.publish({3: [1.0]})
    assert front.edition != seen


def test_a_load_is_never_read_half_written() -> None:
    engine = Board.create(1)
    writer = get_context("fork").Process(target=publish_many, args=(engine.descriptor,))
    writer.start()
    front, seen = Board(engine.descriptor), 0.0

    is_over = False
    while not is_over:
        is_over = not writer.is_alive()  # what it wrote last is still looked at
        try:
            load = front.published(3) or [0.0]
        except BeingWrittenError:
            continue
        assert len(set(load)) == 1
        assert load[0] >= seen
        seen = load[0]

    assert (writer.exitcode, seen) == (0, EDITIONS)


def publish_many(descriptor: int) -> None:
    engine = Board(descriptor)
    for number in range(1, EDITIONS + 1):
        engine.publish({3: [float(number)] * (50 + number % 50)})


def test_an_engine_that_was_killed_as_it_wrote_is_followed_by_one_that_is_read() -> None:
    engine = Board.create(1)
    engine.publish({3: [1.0]})
    engine._values[places.EDITION] += 1  # as it begins to write
    front = Board(engine.descriptor)
    with pytest.raises(BeingWrittenError):
        front.published(3)

    Board(engine.descriptor).publish({3: [2.0]})

    assert front.published(3) == [2.0]


def test_what_does_not_fit_on_the_board_is_not_told() -> None:
    board = Board.create(1)

    board.publish({1: [1.0] * 4000, 2: [2.0] * 4000})

    assert board.published(1) == [1.0] * 4000
    assert board.published(2) is None


def test_what_a_front_wrote_goes_with_it_and_no_others() -> None:
    board = Board.create(3)
    for front in range(3):
        board.set(front, places.HANDLED, 10 + front)
        board.set(front, places.BEAT_AT, 1.0)
        board.set(front, places.LINES_DROPPED, 5)

    board.clear(1)

    assert [board.get(front, places.HANDLED) for front in range(3)] == [10, 0, 12]
    assert board.total(places.HANDLED) == 22
    assert board.beat_at(1) == 0
    assert board.total(places.LINES_DROPPED) == 15  # the metric never falls


def test_memory_that_cannot_be_had_is_told_at_the_start() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            Board.create(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_process_has_stopped_after_some_looks_without_a_sign_of_life() -> None:
    pulse = Pulse(LOOKS)

    assert not any(pulse.has_stopped(float(beat)) for beat in range(1, 20))
    looks = [pulse.has_stopped(19.0) for _ in range(LOOKS)]
    assert looks == [False] * (LOOKS - 1) + [True]


def test_a_process_that_starts_again_is_waited_for() -> None:
    pulse = Pulse(LOOKS)
    for _ in range(LOOKS + 1):
        pulse.has_stopped(7.0)

    assert not any(pulse.has_stopped(0.0) for _ in range(3 * LOOKS))
    assert not pulse.has_stopped(8.0)
