"""A request to classify, from its body to its reply: read, decode, ask the engine, write, record.

Every request ends in one way that is accounted for: an answer is recorded once its reply is made, and what else it ends
in is a problem.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from model.images import Pixels
from service.front.engine_client import Answered
from service.front.front import Front
from service.front.problem_replies import render
from service.front.served import Served
from service.front.traces import trace_answer, trace_problem
from service.front.uploads import Upload, read_upload
from service.hop import Ask, Record
from service.outcomes import Outcome
from service.problems import InternalError, NotReady, Problem
from service.scheduling.published import late_until
from service.scheduling.requests import Refine
from service.schemas import ClassifyQuery

ENDED = "the server, or its bundle, ended before the answer was found"
LOGGED = (
    "request_id",
    "label",
    "confidence",
    "subnetwork",
    "deadline_ms",
    "latency_ms",
    "queue_ms",
    "run_ms",
)  # of the reply


@dataclass(frozen=True, slots=True)
class Received:
    """A request to classify one image, before the image is looked at; of a form with several files, one of them.

    Attributes:
        state: of its HTTP request; it has ``left`` once the client has gone.
    """

    path: str
    request_id: str
    arrived_at: float
    headers: Mapping[bytes, bytes]
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decoded:
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


async def classify(front: Front, request: Request) -> Response:
    """Return the reply to a request: the answer to its image, or to each of several, or a problem."""
    received = receive(front, request)
    response = await accounted(front, received, _classify(front, received, request))
    assert response is not None
    return response


async def steps(
    front: Front, received: Received, request: Request
) -> AsyncGenerator[dict[str, Any]]:
    """Give the document of each answer to a request's image when it comes; the last is ``final``.

    Raises:
        Problem: there is none.
    """
    body = await front.bodies.read(request, received.headers, front.settings.max_body_bytes)
    with (served := front.served):
        read_at = front.clock()
        upload, query = _parse(served, received, request, body)
        decoded = await _decode(front, served, received, query, read_at, upload.only_file())
        ask = _ask(served, received, query, "steps", is_alone=False)
        first_answer_s: float | None = None
        async with aclosing(front.engine.answers(ask, decoded.pixels)) as answers:
            async for answered, is_last in answers:
                reply = _reply(front, served, received, query, answered)
                if first_answer_s is None:
                    first_answer_s = reply["latency_ms"] / 1e3
                if is_last:
                    _record(
                        front, served, received, query, decoded, answered, reply, first_answer_s
                    )
                yield {**reply, "final": is_last}


async def accounted(
    front: Front, received: Received, work: Awaitable[Response | None]
) -> Response | None:
    """Return what a request's work returns, or the problem that it ends in, which is accounted for."""
    request_id, arrived_at = received.request_id, received.arrived_at
    try:
        return await work
    except Problem as problem:
        trace_id = trace_problem(front, received, problem)
        front.ended(problem.outcome, request_id, arrived_at, problem, trace_id)
        return _rendered(problem, request_id)
    except (asyncio.CancelledError, ClientDisconnect, TimeoutError) as error:
        stopped = NotReady(ENDED)
        if isinstance(error, asyncio.CancelledError) and not received.state.get(
            "left"
        ):  # a drain is over
            front.ended(stopped.outcome, request_id, arrived_at, stopped)
        else:
            front.ended("abandoned", request_id, arrived_at)
        return _rendered(stopped, request_id)
    except Exception as error:
        front.log.error("request_crashed", request_id=request_id, exc_info=error)
        front.ended("failed", request_id, arrived_at)
        return _rendered(InternalError("the server failed to handle the request"), request_id)


async def _classify(front: Front, received: Received, request: Request) -> Response:
    """Read a request, and answer its file, or each of its files."""
    body = await front.bodies.read(request, received.headers, front.settings.max_body_bytes)
    # Entered with the whole body: a slow sender keeps no bundle from being replaced.
    with (served := front.served):
        read_at = front.clock()
        upload, query = _parse(served, received, request, body)
        if len(upload.files) > 1:
            return await _answer_each(front, served, received, query, read_at, upload.files)
        return await _answer(front, served, received, query, read_at, upload.only_file())


async def _answer_each(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    files: Sequence[bytes],
) -> Response:
    """Reply with the documents of what becomes of each file, in their order: each is a request of its own."""

    async def outcome(n: int, file: bytes) -> bytes:
        own = replace(received, request_id=f"{received.request_id}-{n}")
        with served:
            answer = _answer(front, served, own, query, read_at, file)
            response = await accounted(front, own, answer)
        assert response is not None
        return bytes(response.body)

    try:
        documents = await asyncio.gather(*(outcome(n, file) for n, file in enumerate(files, 1)))
    except asyncio.CancelledError:  # each has ended then, and is accounted for
        return _rendered(NotReady(ENDED), received.request_id)
    return Response(
        b"[" + b",".join(documents) + b"]",
        headers={"X-Request-ID": received.request_id},
        media_type="application/json",
    )


async def _answer(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    file: bytes,
) -> Response:
    """Reply with the best answer to an image."""
    is_alone = served.is_alone_since(received.arrived_at, front.arrivals.waiting)
    decoded = await _decode(front, served, received, query, read_at, file, is_alone=is_alone)
    refine: Refine = "none" if query.stop_at_confidence is None else "deepest"
    ask = _ask(served, received, query, refine, is_alone=is_alone)
    answered = await front.engine.answer(ask, decoded.pixels)
    reply = _reply(front, served, received, query, answered)
    _record(front, served, received, query, decoded, answered, reply)
    return Response(
        to_json(reply), headers={"X-Request-ID": received.request_id}, media_type="application/json"
    )


def _parse(
    served: Served, received: Received, request: Request, body: bytes
) -> tuple[Upload, ClassifyQuery]:
    """Return the files and the parameters of a request."""
    headers = received.headers
    upload = read_upload(
        body, headers.get(b"content-type", b""), headers.get(b"content-encoding", b"")
    )
    return upload, served.parse_query(request.scope["query_string"], upload.fields)


async def _decode(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    file: bytes,
    *,
    is_alone: bool = False,
) -> Decoded:
    """Decode an image, unless its request is lost already."""
    problem = front.check_load(served, received.arrived_at, query, is_alone=is_alone)
    if problem is not None:
        raise problem
    give_up_at = late_until(
        received.arrived_at,
        query.deadline_ms / 1e3,
        query.on_miss,
        idle_s=0.0,
        max_lateness=front.settings.max_lateness,
    )
    with front.bodies.kept(file):
        pixels = await served.decoder.decode(file, give_up_at=give_up_at)
    return Decoded(pixels, read_at, front.clock() - read_at)


def _ask(
    served: Served, received: Received, query: ClassifyQuery, refine: Refine, *, is_alone: bool
) -> Ask:
    """Return what the engine is asked."""
    return Ask(
        served.generation,
        received.arrived_at,
        received.arrived_at + query.deadline_ms / 1e3,
        query.on_miss,
        refine,
        served.place_in_list(query.subnetwork),
        inf if query.stop_at_confidence is None else query.stop_at_confidence,
        is_alone,
    )


def _reply(
    front: Front, served: Served, received: Received, query: ClassifyQuery, answered: Answered
) -> dict[str, Any]:
    """Return the document of an answer."""
    answer = answered.answer
    row = np.frombuffer(answer.probabilities, np.float32)  # (classes,)
    labels = served.manifest.labels
    subnetwork = served.subnetworks[answer.subnetwork]
    top = [
        {"label": labels[k], "class_id": k, "confidence": round(float(row[k]), 6)}
        for k in np.argsort(-row, kind="stable")[: query.top_k].tolist()
    ]
    latency_ms = 1e3 * (front.clock() - received.arrived_at)
    return {
        "request_id": received.request_id,
        **top[0],
        "top": top,
        "subnetwork": subnetwork["name"],
        "expected_accuracy": subnetwork["expected_accuracy"],
        "deadline_ms": query.deadline_ms,
        "latency_ms": round(latency_ms, 3),
        "queue_ms": round(1e3 * (answered.runs[0].started_at - received.arrived_at), 3),
        "run_ms": round(1e3 * (answer.finished_at - answer.started_at), 3),
        "in_time": latency_ms <= query.deadline_ms,
        "bundle": served.bundle_name,
    }


def _record(
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
    front.engine.record(
        Record(
            received.request_id,
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
        )
    )
    trace_id = trace_answer(front, served, received, query, decoded, answered, outcome)
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
    load = served.load()
    least_s = load.idle_s[served.place_of(query.subnetwork)] if load is not None else 0.0
    return "impossible" if least_s > query.deadline_ms / 1e3 else "late"


def _rendered(problem: Problem, request_id: str) -> Response:
    """Return the response that tells a client of a problem with its request."""
    response = render(problem)
    response.headers["X-Request-ID"] = request_id
    return response
