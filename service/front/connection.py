"""One connection: requests are answered in their order, and every wait has an end.

uvicorn makes one ``Connection`` for each that it accepts (its ``http=`` option), and asks it to ``shutdown``.
"""

import asyncio
import time
from collections import deque
from math import inf
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from service.front.front import Front
from service.front.handling import Handler, Shedding, ShedRequest, classifies, let_in
from service.front.http.exchange import Exchange, Headers, refused, scope_of
from service.front.http.lingering import Lingering
from service.front.http.request_parser import LargeHeadError, MalformedError, RequestParser
from service.front.http.turns import LARGE_PART
from service.outcomes import Ending
from service.problems import (
    BodyTooSlow,
    HeadTooLarge,
    HeadTooSlow,
    MalformedRequest,
    Overloaded,
    Problem,
    TooManyRequests,
)

BUFFERED_BYTES = 65_536  # of a body that the application has not taken: more is left in the socket
UNREAD_S = 30.0  # for a client to read what the sockets' buffers do not hold of a reply


class Connection(asyncio.Protocol):
    """A client's connection, from its first byte to its last.

    Attributes:
        writable: the client has read most of what was written.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._front: Front = config.app.front  # type: ignore[union-attr]
        self._handler = Handler(self._front, config.loaded_app, server_state.tasks)
        self._settings = self._front.settings
        self._arrivals = self._front.arrivals
        self._connections = self._front.connections
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = RequestParser(self, self._settings.max_head_bytes, self._settings.root_path)
        self._arrived_at = 0.0  # the request whose head is read
        # The requests that were read and not answered yet, in their order; of the last one the body may be to come.
        self._exchanges: deque[Exchange] = deque()
        self._reading: Exchange | None = None
        self._unread_bytes = 0  # in the inbox
        self._data_arrived_at = 0.0
        self._lost_within_s = 0.0
        self._shedding = Shedding(self._front)
        self._shed: ShedRequest | None = None  # the request that is read, if it is shed by its head
        self._begun_at = 0.0  # the work on what is read
        self._made_at = self._head_read_at = self._paused_at = 0.0
        self._replied_at = -inf
        self._is_paused = self._awaits_turn = False
        self.writable = asyncio.Event()
        self.writable.set()
        self._is_half_closed = False  # the client sends nothing more
        self._is_stopping = False
        self._is_deaf = False  # what comes now is no request
        self._lingering: Lingering | None = None

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        host, port, *_ = transport.get_extra_info("sockname")
        self._server = (host, port)
        # None where the client has gone already.
        self._peer = (transport.get_extra_info("peername") or ("",))[0]
        self._is_secure = transport.get_extra_info("sslcontext") is not None
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._made_at = time.monotonic()
        if not self._connections.allows_another_from(self._peer):
            self._connections.add(self)
            detail = "too many connections are open from this address"
            self._refuse(TooManyRequests(detail, headers={"Retry-After": "1"}))
        elif not self._connections.add(self):
            self._refuse(Overloaded("too many connections are open", headers={"Retry-After": "1"}))

    def data_received(self, data: bytes) -> None:
        """Take what has come: more of a request that is being read at once, a new one in its turn."""
        if self._is_deaf:
            if self._lingering is not None:
                self._lingering.read(len(data))
        elif self._reading is not None or self._shed is not None or self._parser.is_in_head:
            if len(data) >= LARGE_PART:
                self._awaits_turn = self._front.turns.must_wait(self, self._arrived_at)
            self.read(data, time.monotonic(), lost_within_s=0.0)
        else:
            arrived_at, is_first = self._arrivals.read(
                time.monotonic(), replied_at=self._replied_at
            )
            if is_first:
                self._loop.call_soon(self._arrivals.looked)  # runs when all sockets were read
            self._unread_bytes += len(data)
            self._front.inbox.offer(self, data, arrived_at, self._shedding.usual_deadline_s)
            if self._unread_bytes:  # it waits
                self._regulate_reading()

    def read_on(self) -> None:
        """Read the next part of a body; see ``Turns``."""
        self._awaits_turn = False
        self._regulate_reading()

    def read(self, data: bytes, arrived_at: float, *, lost_within_s: float) -> None:
        """Read requests that have come at an instant, or a part of one; see ``Reader``."""
        self._unread_bytes = 0
        self._lost_within_s = lost_within_s
        self._data_arrived_at = arrived_at
        self._begun_at = time.monotonic()
        try:
            self._parser.feed(data)
        except MalformedError as error:
            self._connections.ended("malformed")
            self._refuse(MalformedRequest(str(error)))
        except LargeHeadError:
            limit = self._settings.max_head_bytes
            self._connections.ended("large_head")
            self._refuse(
                HeadTooLarge(f"the head of the request is over {limit} bytes", limit=limit)
            )
        self._regulate_reading()

    def eof_received(self) -> bool:
        """Answer what was read, though no more comes; return whether the connection stays open for that."""
        self._front.inbox.handle_now(self)
        self._is_half_closed = True
        is_awaited = bool(self._exchanges) and self._reading is None and self._lingering is None
        return is_awaited and not self._is_secure  # TLS has no half of a connection

    def pause_writing(self) -> None:
        """Wait for a client that does not read."""
        self.writable.clear()
        self._paused_at = time.monotonic()
        self._regulate_reading()

    def resume_writing(self) -> None:
        """Go on, now that it has read."""
        self.writable.set()
        self._answer_next()
        self._regulate_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the work for a client that has gone."""
        self._front.inbox.handle_now(self)  # what it sent is accounted for
        self._server_state.connections.discard(self)
        self._connections.remove(self, self._peer)
        self._is_deaf = True
        self._abandon_shed()
        self.writable.set()
        while self._exchanges:
            self._handler.abandon(self._exchanges.popleft())
        self._reading = None
        self._parser.close()

    def shutdown(self) -> None:
        """Close if no request is under way, else after its reply; uvicorn's word that the server stops."""
        self._is_stopping = True
        if not self._exchanges and not self._parser.is_in_head and self._lingering is None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def expire(self) -> None:
        """End: the client took too long."""
        if self._lingering is not None:
            self._lingering.expire()
            return
        ending, _ = self._patience()
        self._connections.ended(ending)
        if ending == "slow_head":
            limit = self._settings.read_head_s
            detail = f"the head of the request did not come within {limit:g} s"
            self._refuse(HeadTooSlow(detail, limit=limit))
        elif ending == "slow_body":
            limit = self._settings.read_body_s
            self._refuse(BodyTooSlow(f"the body did not come within {limit:g} s", limit=limit))
        else:
            self._transport.abort()

    # The parser's calls

    def head_begun(self) -> None:
        """Note when the first bytes of a request arrived."""
        self._arrived_at = self._data_arrived_at

    def head_read(self, head: RequestParser) -> None:
        """Have a request handled, or see that it is refused: its body is still to come."""
        if self._is_deaf:
            return
        self._head_read_at = self._begun_at
        shed = self._shedding.why(head, self._arrived_at, lost_within_s=self._lost_within_s)
        awaits_continue = (b"expect", b"100-continue") in head.headers
        headers = self._front.access.origins.headers(head.headers)
        if (
            shed is not None
            and head.keep_alive
            and not (headers or awaits_continue or self._exchanges or self._ends())
        ):
            self._shed = ShedRequest(self._front, shed, head, self._arrived_at, self._begun_at)
            return
        state = {**self._app_state, "arrived_at": self._arrived_at}
        exchange = self._reading = Exchange(
            self,
            scope_of(head, state, self._server, self._peer, is_secure=self._is_secure),
            keep_alive=head.keep_alive,
            awaits_continue=awaits_continue,
        )
        exchange.classifies = classifies(exchange.scope)
        exchange.headers += headers
        self._exchanges.append(exchange)
        exchange.refusal = let_in(self._front.access, exchange)
        if exchange.refusal is None:
            exchange.refusal, exchange.is_shed = shed, shed is not None
        if exchange.refusal is None and exchange.classifies:
            self._arrivals.waiting += 1
        if len(self._exchanges) == 1:
            self._answer_next()

    def _ends(self) -> bool:
        """Whether the connection ends with the last of its requests."""
        return self._is_half_closed or self._is_stopping or self._front.draining

    def body_read(self, body: bytes) -> None:
        """Keep a part of a body, unless its request is refused."""
        if self._shed is not None:
            self._shed.skipped_bytes += len(body)
            if self._shed.skipped_bytes > self._settings.max_body_bytes:
                self._reply_shed(self._shed)
                self._linger()
            return
        if self._reading is None:
            return
        if self._reading.refusal is None:
            self._reading.received(body)
        else:
            self._reading.skipped_bytes += len(body)
            if self._reading.skipped_bytes > self._settings.max_body_bytes:
                self._answer_next()

    def request_read(self) -> None:
        """Note that a request was read to its end."""
        if self._shed is not None:
            self._reply_shed(self._shed)
            return
        if self._reading is not None:
            self._reading.ended()
            self._reading = None
            self._answer_next()

    # The exchanges' calls

    @property
    def common_headers(self) -> Headers:
        """The headers of every reply."""
        return self._server_state.default_headers

    def is_last(self) -> bool:
        """Whether the connection ends with the reply that is written now."""
        return self._ends() and len(self._exchanges) == 1

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def body_taken(self) -> None:
        """Read on."""
        if self._is_paused:
            self._regulate_reading()

    def replied(self, exchange: Exchange) -> None:
        """Go on to the next request, or end."""
        self._replied_at = time.monotonic()
        self._arrivals.worked(self._replied_at)
        if not self._exchanges or exchange is not self._exchanges[0]:
            return
        self._exchanges.popleft()
        if not exchange.keep_alive:
            self._linger()
            return
        if self._is_stopping and not self._exchanges and not self._parser.is_in_head:
            self._transport.close()
            return
        self._answer_next()
        if self._is_paused:
            self._regulate_reading()

    # The requests

    def _answer_next(self) -> None:
        """Begin to answer the first request, if the client reads; of those refused, all that are whole."""
        while self._exchanges and self.writable.is_set() and self._lingering is None:
            exchange = self._exchanges[0]
            if exchange.refusal is None:
                if exchange.task is None:
                    self._handler.begin(exchange)
                return
            is_endless = exchange.skipped_bytes > self._settings.max_body_bytes
            if not (exchange.is_whole or exchange.awaits_continue or is_endless):
                return  # its body is read first, for nothing
            self._handler.refuse(exchange, exchange.refusal, self._begun_at)
            self._begun_at = self._replied_at

    def _reply_shed(self, shed: ShedRequest) -> None:
        self._shed = None
        self.write(shed.reply(self.common_headers))
        self._replied_at = self._begun_at = time.monotonic()

    def _abandon_shed(self) -> None:
        if self._shed is not None:
            self._shed.abandon()
            self._shed = None

    def _refuse(self, problem: Problem) -> None:
        """Refuse what is no request, once those before it were answered, and end."""
        if self._is_deaf:
            return
        self._is_deaf = True
        self._abandon_shed()
        if self._reading is not None:  # there is no end of it to come
            broken, self._reading = self._exchanges.pop(), None
            if broken.has_reply_begun:
                self._transport.abort()
                return
            self._handler.abandon(broken)
        self._exchanges.append(refused(self, problem))
        self._answer_next()

    # The end, and the time until then

    @property
    def expires_at(self) -> float:
        """When it ends unless the client does something; infinite while a request is handled."""
        return self._patience()[1]

    def _patience(self) -> tuple[Ending, float]:
        """Return what the client is waited for to end, and until when."""
        settings = self._settings
        if self._lingering is not None:
            return "idle", self._lingering.expires_at
        if not self.writable.is_set():
            return "unread", self._paused_at + UNREAD_S
        if self._shed is not None or (self._exchanges and self._exchanges[0].refusal is not None):
            began_at = max(self._head_read_at, self._replied_at)
            return "slow_body", began_at + settings.read_body_s
        if self._exchanges or self._unread_bytes:
            return "idle", inf
        if self._parser.is_in_head:
            return "slow_head", max(self._arrived_at, self._replied_at) + settings.read_head_s
        if self._replied_at == -inf:
            return "silent", self._made_at + settings.read_head_s
        return "idle", self._replied_at + settings.keep_alive_s

    def _linger(self) -> None:
        """End, once the client could read the last reply."""
        self._is_deaf, self._reading = True, None
        while self._exchanges:
            self._handler.abandon(self._exchanges.popleft())
        if self._is_half_closed or self._is_secure:  # TLS says by itself that it ends
            self._transport.close()
            return
        self._lingering = Lingering(self._transport)
        self._regulate_reading()

    def _regulate_reading(self) -> None:
        """Leave in the socket what there is no room for."""
        body_bytes = len(self._reading.body) if self._reading is not None else 0
        is_full = len(self._exchanges) > 1 or body_bytes + self._unread_bytes > BUFFERED_BYTES
        must_wait = is_full or self._awaits_turn or not self.writable.is_set()
        pauses = must_wait and self._lingering is None
        if pauses != self._is_paused and not self._transport.is_closing():
            self._is_paused = pauses
            (self._transport.pause_reading if pauses else self._transport.resume_reading)()
