"""PURE: what a call does, step by step; ``Client`` and ``AsyncClient`` carry its steps out.

A call is a generator. It gives ``Send`` and ``Pause``; it is sent what became of a ``Send``, a ``Reply`` or a ``Failure``,
and None after a ``Pause``; it returns what the caller gets, or raises it. Time comes from the clock that it is given.

The rules:

1. The deadline counts from the call, and is the longest that the call waits. The server is asked for what is left of it, less
   the way to it and back.
2. What was not processed is sent again, within the deadline: the connection failed or ended before a byte of the reply,
   or the server said 503 and when to come back. Everything else is told to the caller.
"""

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Literal, TypedDict, TypeVar

from service.client.documents import Answer, Score, SubnetworkList
from service.client.images import ImageLike, to_bytes
from service.client.problems import (
    AnytimeError,
    DamagedImage,
    DeadlineExceeded,
    DeadlineImpossible,
    EmptyBody,
    Expired,
    InternalError,
    NotAnImage,
    Overloaded,
    Problem,
    TooManyPixels,
    UnexpectedReply,
    Unreachable,
    read_problem,
)
from service.client.way import Way

FIRST_PAUSE_S = 0.01  # before a request is repeated; then twice as long each time
SHORTEST_MS = 0.001  # the least that the server takes for a deadline
PARAMETERS = ("model", "on_miss", "subnetwork", "top_k", "stop_at_confidence")
PROBLEM_TYPE, NDJSON = "application/problem+json", "application/x-ndjson"

# What is wrong with one image or its turn; all else is wrong with the request, whatever it holds.
OF_ONE_IMAGE = (
    EmptyBody,
    NotAnImage,
    DamagedImage,
    TooManyPixels,
    DeadlineImpossible,
    Overloaded,
    Expired,
    InternalError,
)

T = TypeVar("T")


class Options(TypedDict, total=False):
    """How an image is to be classified; what is left out is as the server has it.

    ``deadline_ms`` counts from the call, ``request_id`` and ``traceparent`` (W3C trace context) are passed on, and
    docs/api.md describes the others.
    """

    model: str
    deadline_ms: float
    on_miss: Literal["answer", "refuse"]
    subnetwork: str
    top_k: int
    stop_at_confidence: float
    request_id: str
    traceparent: str


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request.

    Attributes:
        files: of a form, in place of a body.
        is_harmless: whether it may be sent again though it may have been processed.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    files: Sequence[bytes] = ()
    is_harmless: bool = True


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request, and wait so long for the whole reply."""

    request: Request
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came; of a stream, its head alone.

    Attributes:
        headers: their names in lower case.
        sent_at: when the request was begun, on a connection that was there.
        came_at: when the reply was whole.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_at: float
    came_at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing came.

    Attributes:
        kind: ``unsent``; ``unanswered``: sent perhaps, and the connection ended before a byte of the reply; ``broken``: it
            ended after that; ``late``: the time was over.
    """

    kind: Literal["unsent", "unanswered", "broken", "late"]
    reason: str


Step = Send | Pause
Call = Generator[Step, Reply | Failure | None, T]


class Calls:
    """The calls to one server.

    Args:
        timeout_s: the longest that a call without a deadline waits.
        grace_s: how long a call waits for a late answer, after its deadline.
        retries: how often a request is sent again at most.
        clock: seconds, monotonic.

    Attributes:
        way: what the way to the server takes.
    """

    def __init__(
        self, *, timeout_s: float, grace_s: float, retries: int, clock: Callable[[], float]
    ) -> None:
        self.way = Way()
        self.clock = clock
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._retries = retries

    def classify(self, image: ImageLike, options: Options) -> Call[Answer]:
        """Classify one image."""
        began_at = self.clock()
        request = _classification("/classify", options, body=to_bytes(image))
        reply = yield from self._exchange(request, began_at, options.get("deadline_ms"))
        answer = self.read_answer(reply.body, began_at, options.get("deadline_ms"))
        self.observe(reply.sent_at, reply.came_at, answer)
        return answer

    def classify_all(
        self, images: Sequence[ImageLike], options: Options
    ) -> Call[list[Answer | Problem]]:
        """Classify several images in one request; one alone is sent as it is, and its outcome is told as those of several are."""
        if not images:
            return []
        if len(images) == 1:
            try:
                return [(yield from self.classify(images[0], options))]
            except OF_ONE_IMAGE as problem:
                return [problem]
        began_at = self.clock()
        files = [to_bytes(each) for each in images]
        request = _classification("/classify", options, files=files)
        reply = yield from self._exchange(request, began_at, options.get("deadline_ms"))
        deadline_ms = options.get("deadline_ms")
        return _read(
            reply.body, lambda all: [self._outcome(each, began_at, deadline_ms) for each in all]
        )

    def open_stream(self, image: ImageLike, options: Options) -> "Call[Events]":
        """Ask for a stream; return what reads its lines."""
        began_at = self.clock()
        request = _classification("/classify/stream", options, body=to_bytes(image))
        request = replace(request, headers={**request.headers, "Accept": NDJSON})
        deadline_ms = options.get("deadline_ms")
        head = yield from self._exchange(request, began_at, deadline_ms)
        return Events(self, began_at, head.sent_at, deadline_ms)

    def feedback(self, answer: Answer | str, label: str) -> Call[Score]:
        """Say what was on an image."""
        request_id = answer if isinstance(answer, str) else answer.request_id
        body = json.dumps({"request_id": request_id, "label": label}).encode()
        headers = {"Content-Type": "application/json"}
        # Not harmless: an answer takes one label, so that a second time it would be refused.
        request = Request("POST", "/feedback", headers=headers, body=body, is_harmless=False)
        reply = yield from self._exchange(request, self.clock(), None)
        return _read(reply.body, Score.read)

    def subnetworks(self, model: str | None = None) -> Call[SubnetworkList]:
        """Ask what the server, or one of its models, can answer with."""
        params = {} if model is None else {"model": model}
        request = Request("GET", "/subnetworks", params=params)
        reply = yield from self._exchange(request, self.clock(), None)
        return _read(reply.body, SubnetworkList.read)

    def observe(self, sent_at: float, came_at: float, answer: Answer) -> None:
        """Learn from an answer what the way takes."""
        self.way.observe(came_at - sent_at - answer.latency_ms / 1e3)

    def read_answer(self, text: bytes | str, began_at: float, deadline_ms: float | None) -> Answer:
        """Return the answer in a document."""
        return _read(text, lambda document: self._answer(document, began_at, deadline_ms))

    def _answer(
        self, document: Mapping[str, Any], began_at: float, deadline_ms: float | None
    ) -> Answer:
        """Return an answer as the caller sees it: by the deadline that it gave, on its own clock."""
        waited_ms = round(1e3 * (self.clock() - began_at), 3)
        answer = Answer.read(document, waited_ms=waited_ms)
        if deadline_ms is None:
            return answer
        return replace(answer, deadline_ms=deadline_ms, in_time=waited_ms <= deadline_ms)

    def _outcome(
        self, document: Mapping[str, Any], began_at: float, deadline_ms: float | None
    ) -> Answer | Problem:
        is_answer = "label" in document
        return (
            self._answer(document, began_at, deadline_ms)
            if is_answer
            else read_problem(document, {})
        )

    def _exchange(
        self, request: Request, began_at: float, deadline_ms: float | None
    ) -> Call[Reply]:
        """Send a request until it is answered or lost; return the reply, or raise why there is none."""
        allowed_s = self._timeout_s if deadline_ms is None else deadline_ms / 1e3
        over_at, grace_s = began_at + allowed_s, 0.0 if deadline_ms is None else self._grace_s
        attempt = 0
        while True:
            left_s = over_at - self.clock()
            if left_s <= 0:
                raise DeadlineExceeded(
                    f"{1e3 * allowed_s:g} ms were over before a request was sent"
                )
            if deadline_ms is not None:
                asked_ms = max(1e3 * (left_s - self.way.share_of(left_s)), SHORTEST_MS)
                params = {**request.params, "deadline_ms": f"{asked_ms:.3f}"}
                request = replace(request, params=params)
            outcome = yield Send(request, left_s + grace_s)
            assert outcome is not None
            if isinstance(outcome, Reply) and outcome.came_at > over_at + grace_s:
                outcome = Failure("late", "")
            if isinstance(outcome, Reply) and outcome.status == HTTPStatus.OK:
                return outcome
            error = _error(outcome, allowed_s)
            pause_s = _pause_s(outcome, error, request, attempt)
            if pause_s is None or attempt >= self._retries or self.clock() + pause_s >= over_at:
                raise error
            yield Pause(pause_s)
            attempt += 1


class Events:
    """Reads the lines of a stream."""

    def __init__(
        self, calls: Calls, began_at: float, sent_at: float, deadline_ms: float | None
    ) -> None:
        self._calls = calls
        self._began_at = began_at
        self._deadline_ms = deadline_ms
        self._sent_at: float | None = sent_at
        self._has_ended = False

    def read(self, line: str) -> Answer:
        """Return the answer in a line."""
        answer = self._calls.read_answer(line, self._began_at, self._deadline_ms)
        if self._sent_at is not None:  # of later ones it would count what the caller did meanwhile
            self._calls.observe(self._sent_at, self._calls.clock(), answer)
            self._sent_at = None
        self._has_ended = answer.final
        return answer

    def end(self) -> None:
        """Say that there are no more lines.

        Raises:
            Unreachable: the last answer is missing.
        """
        if not self._has_ended:
            raise Unreachable("the stream ended before its last answer")


def _classification(
    path: str, options: Options, *, body: bytes = b"", files: Sequence[bytes] = ()
) -> Request:
    """Return the request that asks for it; its deadline is set when it is sent."""
    headers = _trace_context()
    if "request_id" in options:
        headers["X-Request-ID"] = options["request_id"]
    if "traceparent" in options:
        headers["traceparent"] = options["traceparent"]
    asked: Mapping[str, Any] = options
    params = {name: str(asked[name]) for name in PARAMETERS if asked.get(name) is not None}
    return Request("POST", path, params=params, headers=headers, body=body, files=files)


def _trace_context() -> dict[str, str]:
    """Return the headers that make the server part of the caller's trace, if it has begun one with OpenTelemetry."""
    headers: dict[str, str] = {}
    if "opentelemetry" in sys.modules:
        with suppress(ImportError):
            from opentelemetry.propagate import inject

            inject(headers)
    return headers


def _pause_s(
    outcome: Reply | Failure, error: AnytimeError, request: Request, attempt: int
) -> float | None:
    """Return how long to wait before a request is sent again; None if it must not be."""
    match outcome:
        case Reply(status=HTTPStatus.SERVICE_UNAVAILABLE) if isinstance(error, Problem):
            return error.retry_after_s
        case Failure(kind="unsent"):
            return FIRST_PAUSE_S * float(2**attempt)
        case Failure(kind="unanswered") if request.is_harmless:
            return FIRST_PAUSE_S * float(2**attempt)
    return None


def _error(outcome: Reply | Failure, allowed_s: float) -> AnytimeError:
    """Return what the caller is told of a request that was not answered."""
    if isinstance(outcome, Failure):
        if outcome.kind == "late":
            return DeadlineExceeded(f"no answer came within {1e3 * allowed_s:g} ms")
        return Unreachable(outcome.reason)
    media_type = outcome.headers.get("content-type", "")
    if media_type.partition(";")[0] == PROBLEM_TYPE:
        with suppress(UnexpectedReply):
            return _read(outcome.body, lambda document: read_problem(document, outcome.headers))
    return UnexpectedReply(
        f"{outcome.status} with {media_type or 'no content'} is no reply of this API"
    )


def _read(text: bytes | str, read: Callable[[Any], T]) -> T:
    """Return what a JSON document says.

    Raises:
        UnexpectedReply: it is none, or another.
    """
    try:
        return read(json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnexpectedReply(f"what came is no document of this API: {error}") from error
