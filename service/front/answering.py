"""The answers to a request to classify: once or step by step, and accounted for."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_json
from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.front.receiving import Asked, handle
from service.observability.telemetry import Outcome
from service.scheduling.requests import Refine

if TYPE_CHECKING:
    from service.engine.dispatcher import Answered
    from service.engine.serving import Serving
    from service.front.app import Service

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
    if answered.is_first_reply:
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
