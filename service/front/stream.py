"""The reply to ``/classify/stream``: an event for each answer, from the first one on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.front.classify import rendered, steps
from service.front.front import Front
from service.front.received import Received, accounted, receive

EVENT_STREAM, NDJSON = b"text/event-stream", b"application/x-ndjson"
STREAM_PATIENCE_S = 1.0  # after the deadline, with a client that does not read


class AnswerStream(Response):
    """A response that is sent while it is found."""

    def __init__(self, front: Front, request: Request) -> None:
        self._front = front
        self._request = request
        self._has_begun = False

    async def __call__(self, scope: Scope, receive_: Receive, send: Send) -> None:
        """Read the request, and send events or a problem."""
        received = receive(self._front, self._request)
        events = steps(self._front, received, self._request)
        problem = await accounted(self._front, received, self._send(received, events, send))
        if problem is not None and not self._has_begun:
            await rendered(self._front, problem, received)(scope, receive_, send)

    async def _send(
        self, received: Received, events: AsyncGenerator[dict[str, Any]], send: Send
    ) -> None:
        """Send each event when it comes. What fails, fails before the first: later there is an answer to send."""
        is_ndjson = prefers_ndjson(received.headers.get(b"accept", b""))
        async with aclosing(events):
            with self._front.streaming():
                async for event in events:
                    document = to_json(event)
                    body = document + b"\n" if is_ndjson else b"data: " + document + b"\n\n"
                    sending = self._write(received, event, body, is_ndjson, send)
                    if event["final"]:
                        with suppress(asyncio.CancelledError, TimeoutError):  # it is accounted for
                            await sending
                    else:
                        await sending

    async def _write(
        self, received: Received, event: dict[str, Any], body: bytes, is_ndjson: bool, send: Send
    ) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = [
                (b"content-type", NDJSON if is_ndjson else EVENT_STREAM),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),  # has nginx pass each event on at once
                (b"x-request-id", received.request_id.encode()),
            ]
            await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        # A client that takes nothing would keep its bundle from being replaced.
        given_up_at = received.arrived_at + event["deadline_ms"] / 1e3 + STREAM_PATIENCE_S
        async with asyncio.timeout(given_up_at - self._front.clock()):
            await send(
                {"type": "http.response.body", "body": body, "more_body": not event["final"]}
            )


def prefers_ndjson(accept: bytes) -> bool:
    """Return whether an ``Accept`` header asks for NDJSON rather than server-sent events, the default."""
    weights = {EVENT_STREAM: 0.0, NDJSON: 0.0}
    for choice in accept.lower().split(b","):
        media_type, parameters = parse_options_header(choice.strip())
        if media_type in weights:
            with suppress(ValueError):
                weights[media_type] = float(parameters.get(b"q", b"1"))
    return weights[NDJSON] > weights[EVENT_STREAM]
