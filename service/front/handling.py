"""What becomes of a request whose head was read: the application answers it, or it is refused, or its client goes."""

import asyncio
import time
from typing import Any

from starlette.types import ASGIApp

from service.front.front import Front
from service.front.http.exchange import Exchange
from service.problems import InternalError, Problem


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
        exchange.task.add_done_callback(self._tasks.discard)

    def refuse(self, exchange: Exchange, refusal: Problem, begun_at: float) -> None:
        """Refuse a request in the application's place, the work on which began then."""
        request_id = self._front.request_id(exchange.sent_id)
        exchange.refuse(refusal, request_id)
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
                exchange.refuse(refusal, self._front.request_id(exchange.sent_id))
        finally:
            if exchange.classifies:
                self._front.count_handled()
            exchange.cut()
