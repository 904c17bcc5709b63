"""A request to classify: read, answered once or step by step, and accounted for."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_json
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model.images import Pixels
from service.problems import (
    InternalError,
    NotReady,
    Problem,
    render,
)
from service.scheduling.deadline_queue import Refine
from service.schemas import ClassifyQuery
from service.uploads import read_upload
from service.watching.telemetry import Outcome

if TYPE_CHECKING:
    from service.app import Service
    from service.dispatcher import Answered
    from service.serving import Serving

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

EVENT_STREAM, NDJSON = b"text/event-stream", b"application/x-ndjson"
STREAM_PATIENCE_S = 1.0  # after the deadline, with a client that does not read


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was answered."""

    request_id: str
    arrived_at: float
    query: ClassifyQuery
    pixels: Pixels
    decoding_at: float
    decode_s: float
    headers: Mapping[bytes, bytes]


Answering = Callable[["Service", "Serving", Asked], Awaitable[Response | None]]


async def handle(request: Request, answer: Answering) -> Response | None:
    """Read a request to classify and have it answered; return what is still to be sent: the answer, or a problem."""
    service = service_of(request)
    state: dict[str, Any] = request.scope["state"]
    arrived_at: float = state.get("arrived_at") or service.clock()
    headers: dict[bytes, bytes] = dict(request.scope["headers"])
    request_id = service.request_id(headers.get(b"x-request-id", b""))
    try:
        body = await service.bodies.read(request, headers, service.settings.max_body_bytes)
        serving = serving_of(service)
        # Entered with the whole body: a slow sender keeps no bundle from being replaced.
        with serving:
            read_at = service.clock()
            upload = read_upload(
                body, headers.get(b"content-type", b""), headers.get(b"content-encoding", b"")
            )
            query = serving.parse_query(request.scope["query_string"], upload.fields)
            deadline_at = arrived_at + query.deadline_ms / 1e3
            serving.dispatcher.check_before_decode(
                arrived_at=arrived_at,
                deadline_at=deadline_at,
                on_miss=query.on_miss,
                subnetwork=query.subnetwork,
                was_alone=serving.is_alone_since(arrived_at),
            )
            with service.bodies.kept(body):
                pixels = await serving.decoder.decode(
                    upload.only_file(),
                    give_up_at=serving.scheduler.admission.late_until(
                        arrived_at, query.deadline_ms / 1e3, query.on_miss, query.subnetwork
                    ),
                )
            decode_s = service.clock() - read_at
            asked = Asked(request_id, arrived_at, query, pixels, read_at, decode_s, headers)
            return await answer(service, serving, asked)
    except Problem as problem:
        service.ended(problem.outcome, request_id, arrived_at, problem)
        if service.tracer is not None:
            service.tracer.record(
                (f"POST {request.url.path}", arrived_at, service.clock()),
                [],
                headers=headers,
                attributes={
                    "http.response.status_code": problem.status,
                    "anytime.request_id": request_id,
                    "anytime.outcome": problem.outcome,
                },
                problem=problem.detail,
            )
        return _rendered(problem, request_id)
    except (asyncio.CancelledError, ClientDisconnect, TimeoutError) as error:
        stopped = NotReady("the server, or its bundle, ended before the answer was found")
        if isinstance(error, asyncio.CancelledError) and not state.get("left"):  # a drain is over
            service.ended(stopped.outcome, request_id, arrived_at, stopped)
        else:
            service.ended("abandoned", request_id, arrived_at)
        return _rendered(stopped, request_id)
    except Exception as error:
        service.log.error("request_crashed", request_id=request_id, exc_info=error)
        service.ended("failed", request_id, arrived_at)
        return _rendered(InternalError("the server failed to handle the request"), request_id)


def _rendered(problem: Problem, request_id: str) -> Response:
    """Return the response that tells a client of a problem with its request."""
    response = render(problem)
    response.headers["X-Request-ID"] = request_id
    return response


async def answer_once(service: "Service", serving: "Serving", asked: Asked) -> Response:
    """Reply with the best answer."""
    stop_at = asked.query.stop_at_confidence
    answered = await _classified(serving, asked, "none" if stop_at is None else "deepest")
    reply = _reply(service, serving, asked, answered)
    outcome = _account(service, serving, asked, answered, reply)
    _trace(service, "POST /classify", asked, answered, outcome)
    return Response(
        to_json(reply), headers={"X-Request-ID": asked.request_id}, media_type="application/json"
    )


class AnswerStream(Response):
    """The reply to ``/classify/stream``: an event for each answer, from the first one on."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request, and send events or a problem."""
        response = await handle(self._request, partial(self._answer, send))
        if response is not None and not self._has_begun:
            await response(scope, receive, send)

    async def _answer(
        self, send: Send, service: "Service", serving: "Serving", asked: Asked
    ) -> None:
        """Send the answers. What fails, fails before the first: later there is an answer to send."""
        found: asyncio.Queue[Answered | None] = asyncio.Queue()
        last = asyncio.ensure_future(
            _classified(serving, asked, "steps", on_answer=found.put_nowait)
        )
        last.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (answered := await found.get()) is not None:
                reply = _reply(service, serving, asked, answered)
                await self._write(send, service, asked, {**reply, "final": False})
            reply = _reply(service, serving, asked, last.result())
            outcome = _account(service, serving, asked, last.result(), reply)
            _trace(service, "POST /classify/stream", asked, last.result(), outcome)
            with suppress(asyncio.CancelledError, TimeoutError):  # it is accounted for
                await self._write(send, service, asked, {**reply, "final": True})
        finally:
            last.cancel()

    async def _write(
        self, send: Send, service: "Service", asked: Asked, event: dict[str, Any]
    ) -> None:
        is_ndjson = prefers_ndjson(asked.headers.get(b"accept", b""))
        if not self._has_begun:
            self._has_begun = True
            service.metrics.first_answer.observe(event["latency_ms"] / 1e3)
            headers = [
                (b"content-type", NDJSON if is_ndjson else EVENT_STREAM),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),  # has nginx pass each event on at once
                (b"x-request-id", asked.request_id.encode()),
            ]
            await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        document = to_json(event)
        body = document + b"\n" if is_ndjson else b"data: " + document + b"\n\n"
        more = not event["final"]
        # A client that takes nothing would keep its bundle from being replaced.
        given_up_at = asked.arrived_at + asked.query.deadline_ms / 1e3 + STREAM_PATIENCE_S
        async with asyncio.timeout(given_up_at - service.clock()):
            await send({"type": "http.response.body", "body": body, "more_body": more})


def prefers_ndjson(accept: bytes) -> bool:
    """Return whether an ``Accept`` header asks for NDJSON rather than server-sent events, the default."""
    weights = {EVENT_STREAM: 0.0, NDJSON: 0.0}
    for choice in accept.lower().split(b","):
        media_type, parameters = parse_options_header(choice.strip())
        if media_type in weights:
            with suppress(ValueError):
                weights[media_type] = float(parameters.get(b"q", b"1"))
    return weights[NDJSON] > weights[EVENT_STREAM]


async def _classified(
    serving: "Serving",
    asked: Asked,
    refine: Refine,
    on_answer: "Callable[[Answered], None] | None" = None,
) -> "Answered":
    """Return the best answer."""
    query = asked.query
    return await serving.dispatcher.classify(
        asked.pixels,
        arrived_at=asked.arrived_at,
        deadline_at=asked.arrived_at + query.deadline_ms / 1e3,
        on_miss=query.on_miss,
        subnetwork=query.subnetwork,
        refine=refine,
        stop_at_confidence=query.stop_at_confidence or inf,
        on_answer=on_answer,
        was_alone=serving.is_alone_since(asked.arrived_at),
    )


def _reply(
    service: "Service", serving: "Serving", asked: Asked, answered: "Answered"
) -> dict[str, Any]:
    """Return the document of an answer."""
    query = asked.query
    row = answered.probabilities  # (classes,)
    labels = serving.bundle.manifest.labels
    top = [
        {"label": labels[k], "class_id": k, "confidence": round(float(row[k]), 6)}
        for k in np.argsort(-row, kind="stable")[: query.top_k].tolist()
    ]
    latency_ms = 1e3 * (service.clock() - asked.arrived_at)
    return {
        "request_id": asked.request_id,
        **top[0],
        "top": top,
        "subnetwork": answered.subnetwork,
        "expected_accuracy": serving.expected_accuracy[answered.subnetwork],
        "deadline_ms": query.deadline_ms,
        "latency_ms": round(latency_ms, 3),
        "queue_ms": round(1e3 * (answered.runs[0].started_at - asked.arrived_at), 3),
        "run_ms": round(1e3 * (answered.finished_at - answered.started_at), 3),
        "in_time": latency_ms <= query.deadline_ms,
        "bundle": serving.bundle_name,
    }


def _account(
    service: "Service",
    serving: "Serving",
    asked: Asked,
    answered: "Answered",
    reply: dict[str, Any],
) -> Outcome:
    """Account for the last answer to a request, and return how that ended."""
    now = service.clock()
    deadline_s = asked.query.deadline_ms / 1e3
    reply_s = now - answered.given_at
    slack_s = deadline_s - (answered.started_at - asked.arrived_at) - answered.predicted_s
    outcome = _outcome(serving, asked, reply)
    serving.latency.observe_reply(reply_s)
    service.metrics.answered(
        subnetwork=answered.subnetwork,
        label=reply["label"],
        confidence=reply["confidence"],
        accuracy=reply["expected_accuracy"],
        outcome=outcome,
        latency_s=now - asked.arrived_at,
        deadline_s=deadline_s,
        queue_s=answered.runs[0].started_at - asked.arrived_at,
        decode_s=asked.decode_s,
        reply_s=reply_s,
        slack_s=slack_s,
    )
    service.answers.remember(
        asked.request_id,
        subnetwork=answered.subnetwork,
        label=reply["label"],
        bundle=serving.bundle.digest,
        now=now,
    )
    if serving.agreement is not None:
        serving.agreement.answered(asked.pixels, answered.subnetwork, reply["class_id"])
    service.log_request(
        outcome,
        lambda: {
            **{key: reply[key] for key in LOGGED},
            "decode_ms": round(1e3 * asked.decode_s, 3),
            "predicted_ms": round(1e3 * answered.predicted_s, 3),
            "slack_ms": round(1e3 * slack_s, 3),
            "batch_size": answered.batch_size,
        },
    )
    return outcome


def _outcome(serving: "Serving", asked: Asked, reply: Mapping[str, Any]) -> Outcome:
    """Return how a request ended that got an answer; late is only what could have been in time."""
    if reply["in_time"]:
        return "in_time"
    query = asked.query
    least_s = serving.scheduler.admission.idle_s(query.subnetwork)
    return "impossible" if least_s > query.deadline_ms / 1e3 else "late"


def _trace(
    service: "Service", name: str, asked: Asked, answered: "Answered", outcome: Outcome
) -> None:
    """Record an answer and where its time went, if traces are on."""
    if service.tracer is None:
        return
    now, decoded_at = service.clock(), asked.decoding_at + asked.decode_s
    service.tracer.record(
        (name, asked.arrived_at, now),
        [
            ("decode", asked.decoding_at, decoded_at),
            ("queue", decoded_at, answered.runs[0].started_at),
            *(("run", run.started_at, run.finished_at) for run in answered.runs),
            ("reply", answered.given_at, now),
        ],
        headers=asked.headers,
        attributes={
            "http.response.status_code": HTTPStatus.OK,
            "anytime.request_id": asked.request_id,
            "anytime.outcome": outcome,
            "anytime.subnetwork": answered.subnetwork,
            "anytime.deadline_ms": asked.query.deadline_ms,
            "anytime.batch_size": answered.batch_size,
            "anytime.predicted_ms": 1e3 * answered.predicted_s,
        },
    )


def service_of(request: Request) -> "Service":
    """Return what the endpoints share."""
    service: Service = request.app.state.service
    return service


def serving_of(service: "Service") -> "Serving":
    """Return what answers.

    Raises:
        NotReady: the server is still warming up.
    """
    if service.serving is None:
        raise NotReady("the server is warming up", headers={"Retry-After": "1"})
    return service.serving
