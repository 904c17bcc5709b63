"""What is received to be classified, and how each such request ends: one way, which is counted, logged and traced."""

import asyncio
import re
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect, Request

from model.images import Pixels
from service.front.asked import Answered
from service.front.front import Front
from service.front.serving import Served
from service.hop import Record
from service.outcomes import NO_MODEL, Outcome
from service.problems import InternalError, NotReady, Problem
from service.schemas import ClassifyQuery

if TYPE_CHECKING:
    from service.observability.tracing import Described, Stretch

TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C
NO_TRACE = b"0" * 32
ENDED = "the server, or its bundle, ended before the answer was found"
T = TypeVar("T")
LOGGED = (
    "request_id",
    "confidence",
    "subnetwork",
    "deadline_ms",
    "latency_ms",
    "queue_ms",
    "run_ms",
)  # of the reply


class Received(NamedTuple):
    """A request to classify one image, before the image is looked at; of a form with several files, one of them.

    Attributes:
        state: of its HTTP request; it has ``left`` once the client has gone, and the ``model`` once that is known.
    """

    path: str
    request_id: str
    arrived_at: float
    headers: Mapping[bytes, bytes]
    state: dict[str, Any]

    @property
    def model(self) -> str:
        """What it asks, as far as that is known."""
        name: str = self.state.get("model", NO_MODEL)
        return name


class Decoded(NamedTuple):
    """An image that is ready to be run.

    Attributes:
        pixels: uint8 (H, W, 3).
        decoding_at, decode_s: when its request was read, and how long decoding took from there.
    """

    pixels: Pixels
    decoding_at: float
    decode_s: float


def receive(front: Front, request: Request) -> Received:
    """Return what the head of a request says."""
    state: dict[str, Any] = request.scope["state"]
    headers: dict[bytes, bytes] = dict(request.scope["headers"])
    return Received(
        request.scope["path"],
        front.request_id(headers.get(b"x-request-id", b"")),
        state.get("arrived_at") or front.clock(),
        headers,
        state,
    )


async def accounted(front: Front, received: Received, work: Awaitable[T]) -> T | Problem:
    """Return what a request's work returns, or the problem that it ends in, which is accounted for."""
    request_id, arrived_at = received.request_id, received.arrived_at
    try:
        return await work
    except Problem as problem:
        trace_id = _trace_problem(front, received, problem)
        front.ended(problem.outcome, request_id, arrived_at, problem, trace_id, received.model)
        # Its frames hold the request, the image, and the problem itself: with them all is kept until it is collected.
        return problem.with_traceback(None)
    except (asyncio.CancelledError, ClientDisconnect, TimeoutError) as error:
        stopped = NotReady(ENDED)
        if isinstance(error, asyncio.CancelledError) and not received.state.get(
            "left"
        ):  # a drain is over
            front.ended(stopped.outcome, request_id, arrived_at, stopped, model=received.model)
        else:
            front.ended("abandoned", request_id, arrived_at, model=received.model)
        return stopped
    except Exception as error:
        front.log.error("request_crashed", request_id=request_id, exc_info=error)
        front.ended("failed", request_id, arrived_at, model=received.model)
        return InternalError("the server failed to handle the request")


def record(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    decoded: Decoded,
    answered: Answered,
    reply: Mapping[str, Any],
    first_answer_s: float = -1.0,
) -> None:
    """Account for the last answer to a request."""
    answer, now = answered.answer, front.clock()
    deadline_s = query.deadline_ms / 1e3
    slack_s = deadline_s - (answer.started_at - received.arrived_at) - answer.predicted_s
    outcome = _outcome(served, query, reply)
    trace_id = _trace_answer(front, served, received, query, decoded, answered, outcome)
    front.engine.record(
        Record(
            served.generation,
            outcome,
            answer.subnetwork,
            reply["class_id"],
            answer.is_first_reply,
            reply["confidence"],
            now - received.arrived_at,
            deadline_s,
            answered.runs[0].started_at - received.arrived_at,
            decoded.decode_s,
            now - answered.given_at,
            slack_s,
            first_answer_s,
            trace_id,
            received.request_id,
        )
    )
    front.log_request(
        outcome,
        lambda: {
            **{key: reply[key] for key in LOGGED},
            **({"trace_id": trace_id} if trace_id else {}),
            "decode_ms": round(1e3 * decoded.decode_s, 3),
            "predicted_ms": round(1e3 * answer.predicted_s, 3),
            "slack_ms": round(1e3 * slack_s, 3),
            "batch_size": answer.batch_size,
        },
    )


def _outcome(served: Served, query: ClassifyQuery, reply: Mapping[str, Any]) -> Outcome:
    """Return how a request ended that got an answer; late is only what could have been in time."""
    if reply["in_time"]:
        return "in_time"
    is_impossible = served.idle_s(query.subnetwork) > query.deadline_ms / 1e3
    return "impossible" if is_impossible else "late"


def _trace_problem(front: Front, received: Received, problem: Problem) -> str:
    """Record a request that got no answer, where traces are on; return the id of its trace for the log, if it has one."""
    caller_s = _trace_of(received.headers)
    if front.tracer is None:
        return caller_s
    recorded = front.tracer.record(
        (f"POST {received.path}", received.arrived_at, front.clock()),
        [],
        headers=received.headers,
        attributes={
            "http.response.status_code": problem.status,
            "anytime.request_id": received.request_id,
            "anytime.outcome": problem.outcome,
        },
        problem=problem.detail,
    )
    return recorded or caller_s


def _trace_answer(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    decoded: Decoded,
    answered: Answered,
    outcome: Outcome,
) -> str:
    """Record an answer and where its time went, where traces are on; return as ``_trace_problem``."""
    caller_s = _trace_of(received.headers)
    if front.tracer is None:
        return caller_s
    answer, now = answered.answer, front.clock()
    decoded_at = decoded.decoding_at + decoded.decode_s
    parts: list[tuple[Stretch, Described]] = [
        (("decode", decoded.decoding_at, decoded_at), {}),
        (("queue", decoded_at, answered.runs[0].started_at), {}),
    ]
    for run in answered.runs:
        described: Described = {
            "anytime.subnetwork": served.subnetworks[run.subnetwork]["name"],
            "anytime.batch_size": run.batch_size,
            "anytime.predicted_ms": 1e3 * run.predicted_s,
            "anytime.outcome": outcome if run is answered.runs[-1] else "refined",
        }
        parts.append((("run", run.started_at, run.finished_at), described))
    parts.append((("reply", answered.given_at, now), {}))
    recorded = front.tracer.record(
        (f"POST {received.path}", received.arrived_at, now),
        parts,
        headers=received.headers,
        attributes={
            "http.response.status_code": HTTPStatus.OK,
            "anytime.request_id": received.request_id,
            "anytime.outcome": outcome,
            "anytime.subnetwork": served.subnetworks[answer.subnetwork]["name"],
            "anytime.deadline_ms": query.deadline_ms,
            "anytime.batch_size": answer.batch_size,
            "anytime.predicted_ms": 1e3 * answer.predicted_s,
        },
    )
    return recorded or caller_s


def _trace_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the id of the trace that a caller says its request belongs to; nothing if it names none, or not as it must."""
    sent = headers.get(b"traceparent")
    match = TRACEPARENT.fullmatch(sent) if sent else None
    return match[1].decode() if match and match[1] != NO_TRACE else ""
