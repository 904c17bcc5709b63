"""The connection: uvicorn's, which also says when a request arrived, and turns a flood away before it is parsed."""

import asyncio
import re
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.problems import MalformedRequest, Problem, render
from service.scheduling.arrivals import Arrivals

if TYPE_CHECKING:
    from service.app import Service

CLASSIFYING = {"/classify", "/classify/stream"}
CROWD = 4  # requests that were read and wait: the next is looked at before it is parsed
WHOLE_REQUEST = re.compile(
    rb"POST /classify(?:\?(?P<query>\S*))? HTTP/1\.1\r\n(?:[^\r]+\r\n)*?(?i:content-length): *(?P<length>\d+)\r\n"
)
# What Java's client asks every server, and goes on without; the parser would drop the body behind it.
UPGRADE = re.compile(rb"(?i:\r\nupgrade: *h2c(?=\r\n))")
CLOSING = re.compile(rb"(?i:\r\nconnection: *close\r\n)")
REQUEST_ID = re.compile(rb"(?i:\r\nx-request-id): *([^\r]*)\r\n")
DEADLINE = re.compile(rb"(?:^|&)deadline_ms=([0-9]+(?:\.[0-9]+)?)(?=&|$)")
ON_MISS = re.compile(rb"(?:^|&)on_miss=(answer|refuse)(?=&|$)")


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._service: Service = self.config.app.state.service  # type: ignore[union-attr]
        self._arrivals: Arrivals = self._service.arrivals
        self._handled: tuple[RequestResponseCycle, asyncio.Task[Any]] | None = None
        self._replied_at = -inf
        self._is_reading = False  # a request, from its first byte to its last

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        if self._arrivals.waiting >= CROWD and self._is_between_requests and self._turns_away(data):
            return
        if b"h2c" in data and self._is_between_requests:
            head, end, body = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"", head) + end + body
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Stamp the arrival when the first bytes of a request are read, before anything waits."""
        super().on_message_begin()
        self._is_reading = True
        self.scope["state"]["arrived_at"] = self._arrival()

    def on_headers_complete(self) -> None:
        """Count a request until its handling begins."""
        super().on_headers_complete()
        if _classifies(self.scope):
            self._arrivals.waiting += 1
            self.scope["state"]["watch"] = partial(self._watch, self.cycle)

    def on_message_complete(self) -> None:
        """Note that a request was read."""
        self._is_reading = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note when the reply was written."""
        self._replied()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request in progress, and let those go whose turn has not come: nobody will read their answers."""
        super().connection_lost(exc)
        if self._handled is not None:
            cycle, task = self._handled
            cycle.disconnected = True  # the server marks only the last that it read
            cycle.scope["state"]["left"] = (
                True  # whose task is cancelled otherwise, the server stops
            )
            task.cancel()
        while self.pipeline:
            cycle, _ = self.pipeline.pop()
            if _classifies(cycle.scope):
                self._arrivals.waiting -= 1
                sent = dict(cycle.scope["headers"]).get(b"x-request-id", b"")
                request_id = self._service.request_id(sent)
                self._service.ended("abandoned", request_id, cycle.scope["state"]["arrived_at"])

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; the connection ends, since nobody knows where the next request begins."""
        problem = MalformedRequest("what was sent is no HTTP/1.1 request")
        self.transport.write(_reply(problem, self._service.request_id(b""), b"connection: close"))
        self.transport.close()

    @property
    def _is_between_requests(self) -> bool:
        return not self._is_reading and (self.cycle is None or self.cycle.response_complete)

    def _arrival(self) -> float:
        arrived_at, is_first = self._arrivals.read(time.monotonic(), replied_at=self._replied_at)
        if is_first:
            self.loop.call_soon(self._arrivals.looked)  # runs when all sockets were read
        return arrived_at

    def _replied(self) -> None:
        self._replied_at = time.monotonic()
        self._arrivals.worked(self._replied_at)

    def _watch(self, cycle: RequestResponseCycle, task: asyncio.Task[Any] | None) -> None:
        """Follow the handling of a request from its begin to its end."""
        if task is not None:
            self._arrivals.waiting -= 1
        self._handled = None if task is None else (cycle, task)

    def _turns_away(self, data: bytes) -> bool:
        """Refuse a request that came whole, if those that were read before it leave it no time."""
        begun_s = time.thread_time()
        match = WHOLE_REQUEST.match(data)
        if match is None:
            return False
        body_at = data.find(b"\r\n\r\n", match.end() - 2) + 4
        if len(data) - body_at != int(match["length"]) or CLOSING.search(data, 0, body_at):
            return False  # it came in pieces, or more is to be done than to reply
        query = match["query"] or b""
        settings = self._service.settings
        deadline = DEADLINE.search(query)
        if (deadline is None and b"deadline_ms" in query) or b"%" in query:
            return False  # it is written in another way
        deadline_ms = float(deadline[1]) if deadline else settings.default_deadline_ms
        on_miss = ON_MISS.search(query)
        refuses = (on_miss[1].decode() if on_miss else settings.default_on_miss) == "refuse"
        arrived_at = self._arrival()
        deadline_s = deadline_ms / 1e3
        refusal = self._service.turns_away(arrived_at, deadline_s, refuses=refuses)
        if refusal is None:
            return False
        sent = REQUEST_ID.search(data, 0, body_at)
        request_id = self._service.request_id(sent[1] if sent else b"")
        self._service.ended(refusal.outcome, request_id, arrived_at, refusal)
        self.transport.write(_reply(refusal, request_id))
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self._replied()
        self._service.turned_away(deadline_s, cost_s=time.thread_time() - begun_s)
        return True


def _classifies(scope: Mapping[str, object]) -> bool:
    """Whether a request is one whose handling tells ``watch`` of its begin."""
    return scope["path"] in CLASSIFYING and scope["method"] == "POST"


def _reply(problem: Problem, request_id: str, *lines: bytes) -> bytes:
    """Return the reply to a request that was not parsed."""
    head, body = _head_and_body(problem)
    return b"\r\n".join([*head, b"x-request-id: " + request_id.encode(), *lines, b"", body])


@lru_cache(maxsize=1)  # in a flood all are told the same
def _head_and_body(problem: Problem) -> tuple[list[bytes], bytes]:
    response = render(problem)
    status = b"HTTP/1.1 %d %s" % (problem.status, HTTPStatus(problem.status).phrase.encode())
    return [status, *(b"%s: %s" % header for header in response.raw_headers)], bytes(response.body)
