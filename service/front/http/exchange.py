"""One request on a connection and the reply to it, as an ASGI application sees them."""

import asyncio
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

from starlette.types import Message

from service.front.http.problem_replies import render
from service.front.http.request_parser import RequestParser
from service.problems import Problem

Headers = Iterable[tuple[bytes, bytes]]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class Wire(Protocol):
    """What an exchange needs of its connection.

    Attributes:
        writable: the client has read most of what was written.
    """

    writable: asyncio.Event

    @property
    def common_headers(self) -> Headers:
        """Headers of every reply."""

    def is_last(self) -> bool:
        """Whether the connection ends with the reply that is written now."""

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""

    def abort(self) -> None:
        """End at once."""

    def body_taken(self) -> None:
        """Read on."""

    def replied(self, exchange: "Exchange") -> None:
        """Go on to the next request."""


class Exchange:
    """A request whose head was read, and its reply.

    Args:
        wire: the connection.
        scope: ASGI's; ``state`` has ``arrived_at``, and ``left`` once the client has gone.
        keep_alive: whether the client may send another request behind it.
        awaits_continue: whether the client sends the body only when it is told to.

    Attributes:
        body: what has come of it and was not taken yet.
        is_whole: the request was read to its end.
        has_reply_begun: its status is settled.
        refusal: the reply, if the application is not asked.
        is_shed: that is for the load.
        classifies: it is about an image to be classified.
        task: the application's work on it, if it was asked.
        is_handled: that work has begun.
        skipped_bytes: of its body, if it is refused.
        headers: of the reply, beside the application's.
        on_over: is called once it is over.
        is_over: the reply was written, or nobody is there to read it.
    """

    def __init__(
        self, wire: Wire, scope: dict[str, Any], *, keep_alive: bool, awaits_continue: bool
    ) -> None:
        self._wire = wire
        self.scope = scope
        self.keep_alive = keep_alive
        self.awaits_continue = awaits_continue
        self.body = bytearray()
        self.is_whole = False
        self.has_reply_begun = False
        self.refusal: Problem | None = None
        self.is_shed = self.classifies = False
        self.task: asyncio.Task[None] | None = None
        self.is_handled = False
        self.skipped_bytes = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.on_over: Callable[[], None] | None = None
        self.is_over = False
        self._is_taken = False  # the application has the whole body
        self._change: asyncio.Future[None] | None = None  # which ``receive`` waits for
        self._head = b""  # of the reply, written with the first part of the body
        self._is_chunked = self._has_body = False

    @property
    def arrived_at(self) -> float:
        """When it arrived."""
        arrived_at: float = self.scope["state"]["arrived_at"]
        return arrived_at

    @property
    def sent_id(self) -> bytes:
        """The id that the client has sent with it."""
        headers: list[tuple[bytes, bytes]] = self.scope["headers"]
        return dict(headers).get(b"x-request-id", b"")

    def received(self, data: bytes) -> None:
        """Take a part of the body."""
        self.body += data
        self._changed()

    def ended(self) -> None:
        """Note that the request was read to its end."""
        self.is_whole = True
        self._changed()

    def cut(self) -> None:
        """End the connection if the reply was not completed, which it cannot be any more."""
        if not self.is_over:
            self._wire.abort()

    def leave(self) -> None:
        """Note that the client has gone."""
        self.scope["state"]["left"] = True
        self._be_over()

    async def receive(self) -> Message:
        """Give the application the next part of the body; behind the last one, wait until all is over."""
        if self.awaits_continue and not self.has_reply_begun and not self.is_over:
            self.awaits_continue = False
            self._wire.write(CONTINUE)
        while not self.is_over:
            if self.body or (self.is_whole and not self._is_taken):
                self._is_taken = self.is_whole
                body, self.body = bytes(self.body), bytearray()
                self._wire.body_taken()
                return {"type": "http.request", "body": body, "more_body": not self.is_whole}
            self._change = asyncio.get_running_loop().create_future()
            await self._change
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Write the next part of the application's reply."""
        if message["type"] == "http.response.start":
            if not self.is_over:
                self._begin(message["status"], message.get("headers", ()))
            return
        if not self._wire.writable.is_set():
            await self._wire.writable.wait()
        if self.is_over:
            return
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if not self._has_body:
            body = b""
        elif self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk + b"0\r\n\r\n" if is_last else chunk
        data, self._head = self._head + body, b""
        if data:
            self._wire.write(data)
        if is_last:
            self._end()

    def refuse(self, problem: Problem, request_id: str, root_path: str) -> None:
        """Reply with a problem in the application's place."""
        headers, body = rendered(problem, self.scope["path"], root_path)
        self._begin(problem.status, [*headers, (b"x-request-id", request_id.encode())])
        self._wire.write(self._head + body if self._has_body else self._head)
        self._end()

    def _begin(self, status: int, headers: Headers) -> None:
        """Settle the head of the reply, and whether the connection ends behind it."""
        self.has_reply_begun = True
        names = dict(headers)  # ASGI's are in lower case
        asks_to_close = b"close" in names.get(b"connection", b"").lower()
        if asks_to_close or not self.is_whole or self._wire.is_last():
            self.keep_alive = False
        self._has_body = self.scope["method"] != "HEAD" and status not in WITHOUT_BODY
        all_headers = (*self._wire.common_headers, *self.headers, *headers)
        lines = [status_line(status), *[b"%b: %b\r\n" % header for header in all_headers]]
        if (
            self._has_body
            and b"content-length" not in names
            and self.scope["http_version"] == "1.1"
        ):
            self._is_chunked = True  # else the end of the connection is that of the body
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not asks_to_close:
            lines.append(b"connection: close\r\n")
        self._head = b"".join(lines) + b"\r\n"

    def _end(self) -> None:
        self._be_over()
        self._wire.replied(self)

    def _changed(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def _be_over(self) -> None:
        self.is_over = True
        self._changed()
        if self.on_over is not None:
            self.on_over()
            self.on_over = None


def refused(wire: Wire, problem: Problem) -> Exchange:
    """Return an exchange for what was sent and is no request: its reply is the problem, and ends the connection."""
    scope = {"method": "", "path": "", "http_version": "1.1", "headers": [], "state": {}}
    exchange = Exchange(wire, scope, keep_alive=False, awaits_continue=False)
    exchange.refusal = problem
    exchange.ended()
    return exchange


def scope_of(
    head: RequestParser,
    state: dict[str, Any],
    server: tuple[str, int],
    peer: str,
    *,
    is_secure: bool,
) -> dict[str, Any]:
    """Return ASGI's description of a request that came from the address of a peer to one of the server."""
    path = head.raw_path.decode("latin-1")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.http_version,
        "method": head.method.decode("ascii"),
        "scheme": "https" if is_secure else "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": head.raw_path,
        "query_string": head.query_string,
        "root_path": "",
        "headers": head.headers,
        "client": (peer, 0),
        "server": server,
        "state": state,
    }


@lru_cache(maxsize=1)
def rendered(
    problem: Problem, path: str, root_path: str
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the body that tell of a problem; see ``render``."""
    response = render(problem, path, root_path)
    return response.raw_headers, bytes(response.body)


@cache
def status_line(status: int) -> bytes:
    """Return the first line of a reply."""
    return b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
