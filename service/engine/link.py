"""The engine's end of the hop: one connection for each front."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from service.engine.dispatcher import Event
from service.engine.engine import Engine
from service.hop import (
    Answer,
    Delivered,
    FrameReader,
    Kind,
    ServedBundle,
    answer_frame,
    delivered_frame,
    document_frame,
    frame,
    read_ask,
    read_document,
    read_record,
    shed_frame,
)
from service.problems import InternalError, NotReady, Problem
from service.scheduling.requests import Request, Shed

UNKNOWN_BUNDLE = NotReady("the bundle was replaced", headers={"Retry-After": "1"})


class FrontLink(asyncio.Protocol):
    """What one front asks, and what it is told.

    Args:
        engine: what answers.
        front: which front it is.

    Attributes:
        received: how many requests have come.
        held: the generations of the bundles that the front may still ask; None before it knows any.
    """

    def __init__(self, engine: Engine, front: int) -> None:
        self.front = front
        self.held: frozenset[int] | None = None
        self.received = 0
        self._engine = engine
        self._reader = FrameReader()
        self._dispatcher = engine.dispatcher
        self._asked: dict[int, Request] = {}
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._untold: list[bytes] = []
        self._flushed: list[asyncio.Future[None]] = []
        self._calls: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the front what answers."""
        self._transport = cast(asyncio.Transport, transport)
        self._engine.front_came(self)

    def data_received(self, data: bytes) -> None:
        """Act on each message."""
        for kind, request, message in self._reader.feed(data):
            match kind:
                case Kind.ASK:
                    self._ask(request, message)
                case Kind.GONE:
                    self._gone(request)
                case Kind.RECORD:
                    self._engine.record(read_record(message))
                case Kind.TALLY:
                    self._engine.count(read_document(message))
                case Kind.HELD:
                    self.held = frozenset(read_document(message))
                    self._engine.front_released()
                case Kind.FLUSHED:
                    self._flushed.pop(0).set_result(None)
                case Kind.CALL:
                    call = asyncio.ensure_future(self._call(request, read_document(message)))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take a front's requests out of the queue."""
        for request in self._asked.values():
            self._dispatcher.cancel(request)
        for each in self._flushed:
            each.set_result(None)
        self._engine.front_left(self, lost=len(self._asked))
        self._asked.clear()

    def tell_bundles(self, documents: Sequence[ServedBundle]) -> None:
        """Tell what answers from now on."""
        self._transport.write(document_frame(Kind.BUNDLES, 0, documents))

    async def flush(self) -> None:
        """Wait until all that the front has to tell has come, or the front has left."""
        flushed = asyncio.get_running_loop().create_future()
        self._flushed.append(flushed)
        self._transport.write(frame(Kind.FLUSH))
        await flushed

    def close(self) -> None:
        """End the connection."""
        self._flush()
        self._transport.close()

    def _ask(self, number: int, message: memoryview) -> None:
        self.received += 1
        ask, sent = read_ask(message)
        loaded = self._engine.loaded(ask.generation)
        if loaded is None:
            self._tell(number, UNKNOWN_BUNDLE)
            return
        side = loaded.bundle.manifest.preprocessing.size
        request = self._dispatcher.submit(
            loaded.runs,
            np.frombuffer(sent, np.uint8).reshape(side, side, 3),
            partial(self._tell, number),
            arrived_at=ask.arrived_at,
            deadline_at=ask.deadline_at,
            on_miss=ask.on_miss,
            subnetwork=None if ask.subnetwork is None else loaded.names[ask.subnetwork],
            refine=ask.refine,
            stop_at_confidence=ask.stop_at_confidence,
            was_alone=ask.was_alone,
        )
        if request is not None:
            self._asked[number] = request

    def _gone(self, number: int) -> None:
        request = self._asked.pop(number, None)
        if request is not None:
            self._dispatcher.cancel(request)

    def _tell(self, number: int, event: Event) -> None:
        match event:
            case Answer():
                data, is_last = answer_frame(number, event), event.is_last
            case Delivered():
                data, is_last = delivered_frame(number, event), True
            case Shed():
                data, is_last = shed_frame(number, event), True
            case Problem():
                data, is_last = document_frame(Kind.FAILED, number, event.packed()), True
        if is_last:
            self._asked.pop(number, None)
        self._untold.append(data)
        if not self._asked:
            self._flush()
        elif len(self._untold) == 1:
            self._loop.call_soon(self._flush)  # one message for all that a batch ends

    def _flush(self) -> None:
        if self._untold:
            self._transport.write(b"".join(self._untold))
            self._untold.clear()

    async def _call(self, number: int, call: dict[str, Any]) -> None:
        """Carry out what is asked of the engine itself, and reply."""
        try:
            reply = {"result": await self._engine.call(call["name"], call["arguments"])}
        except Problem as problem:
            reply = {"problem": problem.packed()}
        except Exception as error:
            self._engine.log.error("call_failed", call=call["name"], exc_info=error)
            reply = {"problem": InternalError("the engine failed").packed()}
        self._transport.write(document_frame(Kind.REPLY, number, reply))
