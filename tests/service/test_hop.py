"""What fronts and the engine tell each other."""

from collections.abc import Callable
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.hop import (
    HEAD,
    LARGEST_FRAME,
    ON_MISS,
    OUTCOMES,
    REASONS,
    REFINE,
    Answer,
    Ask,
    Delivered,
    FrameReader,
    Kind,
    Record,
    answer_frame,
    ask_frame,
    delivered_frame,
    document_frame,
    frame,
    read_answer,
    read_ask,
    read_delivered,
    read_document,
    read_record,
    read_shed,
    record_frame,
    shed_frame,
)
from service.scheduling.requests import Shed

seconds = st.floats(allow_nan=False)
numbers = st.integers(0, 2**32 - 1)
places = st.integers(0, 2**16 - 2)
asks = st.builds(
    Ask,
    generation=numbers,
    arrived_at=seconds,
    deadline_at=seconds,
    on_miss=st.sampled_from(ON_MISS),
    refine=st.sampled_from(REFINE),
    subnetwork=st.none() | places,
    stop_at_confidence=st.floats(0, 1, width=32) | st.just(inf),
    was_alone=st.booleans(),
)
answers = st.builds(
    Answer,
    probabilities=st.binary(max_size=64),
    subnetwork=places,
    batch_size=places,
    predicted_s=seconds,
    started_at=seconds,
    finished_at=seconds,
    is_last=st.booleans(),
    is_first_reply=st.booleans(),
)
sheds = st.builds(
    Shed,
    reason=st.sampled_from(REASONS),
    needed_s=seconds,
    limit=seconds,
    retry_after_s=seconds,
)
records = st.builds(
    Record,
    request_id=st.text(max_size=128),
    generation=numbers,
    outcome=st.sampled_from(OUTCOMES),
    subnetwork=places,
    label=places,
    is_first_reply=st.booleans(),
    trace_id=st.just("") | st.just("0af7651916cd43dd8448eb211c80319c"),
    **dict.fromkeys(
        (
            *("confidence", "latency_s", "deadline_s", "queue_s"),
            *("decode_s", "reply_s", "slack_s", "first_answer_s"),
        ),
        seconds,
    ),
)
frames = st.one_of(
    st.builds(ask_frame, numbers, asks, st.binary(max_size=3 * 8 * 8)),
    st.builds(answer_frame, numbers, answers),
    st.builds(record_frame, records),
    st.builds(frame, st.sampled_from(Kind), numbers, st.binary(max_size=16)),
)


def read(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return the frames of a stream that comes in one piece."""
    return [(kind, request, bytes(each)) for kind, request, each in FrameReader().feed(data)]


@given(numbers, asks, st.binary(max_size=3 * 8 * 8))
def test_an_ask_arrives_as_it_was_told_with_its_pixels(
    number: int, ask: Ask, pixels: bytes
) -> None:
    ((kind, request, message),) = read(ask_frame(number, ask, pixels))

    told, came = read_ask(memoryview(message))
    assert (kind, request, told, bytes(came)) == (Kind.ASK, number, ask, pixels)


@pytest.mark.parametrize(
    ("kind", "messages", "write", "read_message"),
    [
        (Kind.ANSWER, answers, answer_frame, read_answer),
        (Kind.SHED, sheds, shed_frame, read_shed),
        (Kind.DELIVERED, st.builds(Delivered, seconds), delivered_frame, read_delivered),
        (Kind.RECORD, records, lambda _, record: record_frame(record), read_record),
    ],
    ids=["answer", "shed", "delivered", "record"],
)
def test_every_message_arrives_as_it_was_told(
    kind: Kind,
    messages: st.SearchStrategy[Any],
    write: Callable[[int, Any], bytes],
    read_message: Callable[[memoryview], Any],
) -> None:
    @given(messages)
    def check(told: Any) -> None:
        ((came, _, message),) = read(write(7, told))
        assert (came, read_message(memoryview(message))) == (kind, told)

    check()


def test_a_limit_without_end_arrives_in_a_document() -> None:
    ((_, _, message),) = read(document_frame(Kind.FAILED, 1, {"needed_ms": inf, "text": "κ"}))

    assert read_document(memoryview(message)) == {"needed_ms": inf, "text": "κ"}


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_is_the_same_in_whatever_pieces_it_comes(
    sent: list[bytes], cuts: list[int]
) -> None:
    stream, reader = b"".join(sent), FrameReader()
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in pairwise(edges)]

    came = [
        (kind, request, bytes(message))
        for piece in pieces
        for kind, request, message in reader.feed(piece)
    ]

    assert came == [each for one in sent for each in read(one)]


def test_what_is_no_such_stream_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        read(HEAD.pack(LARGEST_FRAME + 1, Kind.ASK, 0))
