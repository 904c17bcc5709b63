"""What becomes of a request whose head was read: it is shed, refused, abandoned by its client, or answered by the application."""

import asyncio
import time
from functools import lru_cache
from typing import Any

from starlette.types import ASGIApp

from service.front.access.access import Access
from service.front.front import Front
from service.front.http.exchange import Exchange, Headers, rendered, status_line
from service.front.http.request_parser import RequestParser
from service.front.open_inference.messages import is_infer
from service.problems import InternalError, Problem

CLASSIFYING = {"/classify", "/classify/stream"}
CLASSIFYING_AS_SENT = {path.encode() for path in CLASSIFYING}


class Handler:
    """Has requests of a connection answered, and accounts for those that the application never saw.

    Args:
        front: accounts for them.
        app: answers.
        tasks: its work on requests, for who waits until all of it is done.
    """

    def __init__(self, front: Front, app: ASGIApp, tasks: set[asyncio.Task[None]]) -> None:
        self._front = front
        self._app: Any = app
        self._tasks = tasks

    def begin(self, exchange: Exchange) -> None:
        """Have the application answer a request."""
        exchange.task = asyncio.get_running_loop().create_task(self._handle(exchange))
        self._tasks.add(exchange.task)

    def refuse(self, exchange: Exchange, refusal: Problem, begun_at: float) -> None:
        """Refuse a request in the application's place, the work on which began then."""
        request_id = self._front.request_id(exchange.sent_id)
        exchange.refuse(refusal, request_id, self._front.settings.root_path)
        if exchange.is_shed:
            cost_s = time.monotonic() - begun_at
            self._front.count_shed(refusal, request_id, exchange.arrived_at, cost_s=cost_s)

    def abandon(self, exchange: Exchange) -> None:
        """Stop the work on a request whose client has gone."""
        exchange.leave()
        if not exchange.classifies:
            return
        if exchange.is_handled:
            assert exchange.task is not None
            exchange.task.cancel()
        elif exchange.task is None and (exchange.refusal is None or exchange.is_shed):
            if exchange.refusal is None:
                self._front.arrivals.waiting -= 1
            request_id = self._front.request_id(exchange.sent_id)
            self._front.ended("abandoned", request_id, exchange.arrived_at)

    async def _handle(self, exchange: Exchange) -> None:
        exchange.is_handled = True
        exchange.scope["state"]["is_whole"] = exchange.is_whole
        if exchange.classifies:
            self._front.arrivals.waiting -= 1
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            self._front.log.error("request_crashed", exc_info=error)
            if not exchange.has_reply_begun:
                refusal = InternalError("the server failed to handle the request")
                request_id = self._front.request_id(exchange.sent_id)
                exchange.refuse(refusal, request_id, self._front.settings.root_path)
        finally:
            if exchange.classifies:
                self._front.count_handled()
            exchange.cut()
            assert exchange.task is not None
            self._tasks.discard(exchange.task)


class Shedding:
    """Says which of a connection's requests are shed by their heads.

    Attributes:
        usual_deadline_s: what its next request is taken to have: that of the last one; None before there was one.
    """

    def __init__(self, front: Front) -> None:
        self.usual_deadline_s: float | None = None
        self._front = front
        self._query_string: bytes | None = None  # which has it

    def why(
        self, head: RequestParser, arrived_at: float, *, lost_within_s: float
    ) -> Problem | None:
        """Say why a request to classify is shed, if it is; a stranger's is not: he learns nothing of the load.

        Args:
            head: its own.
            arrived_at: when it did.
            lost_within_s: with such a deadline or a shorter one it is lost.
        """
        if head.raw_path not in CLASSIFYING_AS_SENT or head.method != b"POST":
            return None
        front, query_string = self._front, head.query_string
        if query_string != self._query_string:
            self._query_string = query_string
            self.usual_deadline_s = front.patience_s(query_string)
        if front.access.is_stranger(head.headers):
            return None
        return front.check_head(arrived_at, query_string, lost_within_s=lost_within_s)


class ShedRequest:
    """A request that is shed by its head, at as little cost as can be: in a flood there are tens of thousands a second.

    Nobody handles it: its body is read, for nothing, and then it is told why.

    Args:
        front: accounts for it.
        problem: why.
        head: its own.
        arrived_at: when it did.
        begun_at: when the work on it began.

    Attributes:
        skipped_bytes: of its body.
    """

    __slots__ = ("_arrived_at", "_begun_at", "_front", "_problem", "_sent_id", "skipped_bytes")

    def __init__(
        self,
        front: Front,
        problem: Problem,
        head: RequestParser,
        arrived_at: float,
        begun_at: float,
    ) -> None:
        self._front = front
        self._problem = problem
        self._sent_id = dict(head.headers).get(b"x-request-id", b"")
        self._arrived_at = arrived_at
        self._begun_at = begun_at
        self.skipped_bytes = 0

    def reply(self, common_headers: Headers) -> bytes:
        """Return the whole reply, on a connection that stays, and account for it."""
        problem = self._problem
        request_id = self._front.request_id(self._sent_id)
        root_path = self._front.settings.root_path
        head, body = _parts(problem, tuple(common_headers), root_path)
        cost_s = time.monotonic() - self._begun_at
        self._front.count_shed(problem, request_id, self._arrived_at, cost_s=cost_s)
        return b"%b%b\r\n\r\n%b" % (head, request_id.encode(), body)

    def abandon(self) -> None:
        """Account for it, where the client has gone or it never came to its end."""
        self._front.ended("abandoned", self._front.request_id(self._sent_id), self._arrived_at)


def classifies(scope: dict[str, Any]) -> bool:
    """Return whether a request is about an image to be classified."""
    return scope["method"] == "POST" and (scope["path"] in CLASSIFYING or is_infer(scope["path"]))


def let_in(access: Access, exchange: Exchange) -> Problem | None:
    """Let a request in, or say why not."""
    scope = exchange.scope
    if access.origins.is_preflight(scope["method"], scope["headers"]):
        return None  # which bears no key
    (peer, _), (_, port) = scope["client"], scope["server"]
    if access.is_visit(scope["method"], scope["path"], scope["headers"], port):
        scope["state"]["is_locked"] = True
        return None
    entered = access.enter(scope["path"], scope["headers"], peer, port)
    if isinstance(entered, Problem):
        return entered
    exchange.headers += [
        (name.lower().encode(), value.encode()) for name, value in entered.headers.items()
    ]
    exchange.on_over = entered.leave
    return None


@lru_cache(maxsize=4)  # in a flood all are told the same
def _parts(
    problem: Problem, common_headers: tuple[tuple[bytes, bytes], ...], root_path: str
) -> tuple[bytes, bytes]:
    headers, body = rendered(problem, "", root_path)
    lines = [status_line(problem.status)]
    lines += [b"%b: %b\r\n" % header for header in (*common_headers, *headers)]
    return b"".join(lines) + b"x-request-id: ", body
