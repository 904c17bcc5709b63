"""What a call does, step by step, in time that stands still."""

import json
from typing import Any, Unpack

import pytest

from service.client import (
    Answer,
    DeadlineExceeded,
    NotReady,
    Options,
    Overloaded,
    UnexpectedReply,
    Unreachable,
)
from service.client.calls import Call, Calls, Failure, Pause, Reply, Request, Send
from service.client.way import Way

ANSWER = {
    "request_id": "1",
    "label": "cat",
    "class_id": 3,
    "confidence": 0.9,
    "top": [{"label": "cat", "class_id": 3, "confidence": 0.9}],
    "subnetwork": "full",
    "expected_accuracy": 0.88,
    "deadline_ms": 5,
    "latency_ms": 4.0,
    "queue_ms": 1.0,
    "run_ms": 2.0,
    "in_time": True,
    "bundle": {"name": "cifar10", "digest": "0"},
    "newer_field": 1,
}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def calls(clock: Clock, *, grace_s: float = 0.0) -> Calls:
    return Calls(timeout_s=30.0, grace_s=grace_s, retries=2, clock=clock)


def reply(clock: Clock, took_s: float, document: Any = ANSWER, **head: Any) -> Reply:
    """Let a reply come that took so long."""
    sent_at = clock.now
    clock.now += took_s
    status, headers = head.get("status", 200), head.get("headers", {})
    return Reply(status, headers, json.dumps(document).encode(), sent_at, clock.now)


def problem(clock: Clock, slug: str, status: int, **headers: str) -> Reply:
    document = {"type": f"/problems/{slug}", "title": "", "status": status, "detail": "so"}
    head = {"content-type": "application/problem+json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return reply(clock, 0.001, document, status=status, headers=head)


def end(call: Call[Any], outcome: Reply | Failure | None) -> Any:
    """Send the last outcome; return what the call returns."""
    with pytest.raises(StopIteration) as stopped:
        call.send(outcome)
    return stopped.value.value


def sent(step: Any) -> Request:
    assert isinstance(step, Send)
    return step.request


def answer_after(core: Calls, clock: Clock, took_s: float, **options: Unpack[Options]) -> Request:
    """Have one request answered; return it."""
    call = core.classify(b"image", options)
    step = next(call)
    assert isinstance(end(call, reply(clock, took_s)), Answer)
    return sent(step)


def test_the_deadline_is_sent_less_the_way_that_was_measured() -> None:
    clock = Clock()
    core = calls(clock)

    first = answer_after(core, clock, 0.0045, deadline_ms=25)  # 4 ms of it in the server
    second = answer_after(core, clock, 0.0045, deadline_ms=25)

    assert first.params["deadline_ms"] == "25.000"
    # The mean of one observation, and twice a deviation that is taken to be half of it.
    assert float(second.params["deadline_ms"]) == pytest.approx(25 - 2 * 0.5, abs=1e-3)


def test_time_before_the_request_counts() -> None:
    clock = Clock()

    class File:
        def read(self) -> bytes:
            clock.now += 0.010
            return b"image"

    call = calls(clock).classify(File(), Options(deadline_ms=25))

    step = next(call)
    assert isinstance(step, Send)
    assert step.timeout_s == pytest.approx(0.015)
    assert step.request.params["deadline_ms"] == "15.000"


def test_the_way_takes_half_of_the_time_at_most() -> None:
    way = Way()
    way.observe(1.0)

    assert way.share_of(0.010) == 0.005


def test_the_way_follows_what_is_observed() -> None:
    way = Way()
    for _ in range(100):
        way.observe(0.010)
    for _ in range(100):
        way.observe(0.002)

    assert way.estimate_s == pytest.approx(0.002, rel=0.01)


def test_without_a_deadline_none_is_sent() -> None:
    clock = Clock()

    request = answer_after(calls(clock), clock, 0.005)

    assert request.params == {}


def test_an_answer_after_the_deadline_is_none_unless_it_is_waited_for() -> None:
    clock = Clock()
    call = calls(clock).classify(b"image", Options(deadline_ms=5))
    next(call)

    with pytest.raises(DeadlineExceeded, match="no answer came within 5 ms"):
        call.send(reply(clock, 0.006))
    answer_after(calls(clock, grace_s=1.0), clock, 0.006, deadline_ms=5)


def test_in_time_is_by_the_deadline_and_the_clock_of_the_caller() -> None:
    clock = Clock()
    core = calls(clock, grace_s=1.0)
    late = {**ANSWER, "in_time": False, "deadline_ms": 3.0}  # what the server was asked for

    call = core.classify(b"image", Options(deadline_ms=5))
    next(call)
    in_time = end(call, reply(clock, 0.0045, late))
    call = core.classify(b"image", Options(deadline_ms=4.25))
    next(call)
    too_late = end(call, reply(clock, 0.0045, ANSWER))

    assert (in_time.in_time, in_time.deadline_ms) == (True, 5)
    assert (too_late.in_time, too_late.deadline_ms, too_late.waited_ms) == (False, 4.25, 4.5)


@pytest.mark.parametrize("kind", ["unsent", "unanswered"])
def test_what_was_not_processed_is_sent_again_with_the_time_that_is_left(kind: Any) -> None:
    clock = Clock()
    call = calls(clock).classify(b"image", Options(deadline_ms=100))
    next(call)
    clock.now += 0.020

    pause = call.send(Failure(kind, "refused"))
    assert pause == Pause(0.01)
    clock.now += 0.010
    again = call.send(None)

    assert sent(again).params["deadline_ms"] == "70.000"


def test_it_is_sent_again_twice_at_most() -> None:
    call = calls(Clock()).classify(b"image", Options(deadline_ms=60_000))
    next(call)

    for pause_s in (0.01, 0.02):
        assert call.send(Failure("unsent", "refused")) == Pause(pause_s)
        assert isinstance(call.send(None), Send)

    with pytest.raises(Unreachable, match="refused"):
        call.send(Failure("unsent", "refused"))


def test_nothing_is_sent_again_past_the_deadline() -> None:
    call = calls(Clock()).classify(b"image", Options(deadline_ms=9))
    next(call)

    with pytest.raises(Unreachable):
        call.send(Failure("unsent", "refused"))


def test_a_label_is_not_sent_again_where_it_may_have_come() -> None:
    call = calls(Clock()).feedback("1", "cat")
    next(call)

    with pytest.raises(Unreachable):
        call.send(Failure("unanswered", "closed"))


def test_a_server_that_says_when_to_come_back_is_heeded() -> None:
    clock = Clock()
    call = calls(clock).classify(b"image", Options(deadline_ms=5000))
    next(call)

    assert call.send(problem(clock, "not-ready", 503, retry_after="2")) == Pause(2.0)
    clock.now += 2
    assert isinstance(call.send(None), Send)
    assert end(call, reply(clock, 0.001)).label == "cat"


def test_a_server_that_says_to_come_back_too_late_is_not_asked_again() -> None:
    clock = Clock()
    call = calls(clock).classify(b"image", Options(deadline_ms=500))
    next(call)

    with pytest.raises(Overloaded) as raised:
        call.send(problem(clock, "overloaded", 503, retry_after="1"))

    assert raised.value.retry_after_s == 1.0


def test_a_date_to_come_back_is_not_waited_for() -> None:
    clock = Clock()
    call = calls(clock).subnetworks()
    next(call)

    with pytest.raises(NotReady):
        call.send(problem(clock, "not-ready", 503, retry_after="Fri, 31 Dec 1999 23:59:59 GMT"))


def test_a_problem_of_a_newer_server_is_told_too() -> None:
    clock = Clock()
    call = calls(clock).subnetworks()
    next(call)

    with pytest.raises(Exception, match="teapot: so") as raised:
        call.send(problem(clock, "teapot", 418))

    assert type(raised.value).__name__ == "Problem"


@pytest.mark.parametrize("document", [[], {}, {"label": "cat"}, "cat", None, {**ANSWER, "top": 1}])
def test_what_is_no_answer_is_told_as_such(document: Any) -> None:
    clock = Clock()
    call = calls(clock).classify(b"image", Options())
    next(call)

    with pytest.raises(UnexpectedReply, match="no document of this API"):
        call.send(reply(clock, 0.001, document))


def test_a_page_of_a_proxy_is_no_problem_of_the_server() -> None:
    clock = Clock()
    call = calls(clock).classify(b"image", Options())
    next(call)

    with pytest.raises(UnexpectedReply, match="502 with text/html is no reply"):
        call.send(reply(clock, 0.001, status=502, headers={"content-type": "text/html"}))


def test_the_outcomes_of_several_images_come_in_their_order() -> None:
    clock = Clock()
    call = calls(clock).classify_all([b"1", b"2"], Options(deadline_ms=5))
    request = sent(next(call))
    bad = {"type": "/problems/not-an-image", "title": "", "status": 415, "detail": "so"}

    outcomes = end(call, reply(clock, 0.001, [ANSWER, bad]))

    assert list(request.files) == [b"1", b"2"]
    assert [type(each).__name__ for each in outcomes] == ["Answer", "NotAnImage"]


def test_ids_and_trace_context_are_passed_on() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = calls(Clock()).classify(b"image", Options(request_id="a", traceparent=traceparent))

    headers = sent(next(call)).headers

    assert headers == {"X-Request-ID": "a", "traceparent": traceparent}


def test_a_trace_that_the_caller_has_begun_goes_on_at_the_server() -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = trace.TracerProvider().get_tracer("test")

    with tracer.start_as_current_span("caller") as span:
        headers = sent(next(calls(Clock()).classify(b"image", Options()))).headers

    trace_id = format(span.get_span_context().trace_id, "032x")
    assert headers["traceparent"].split("-")[1] == trace_id
