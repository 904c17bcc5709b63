"""What the endpoints of a front share."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from random import Random
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from model.preprocessing import Preprocessing
from service import __version__
from service import board as places
from service.board import Board, Pulse
from service.front.access.access import Access
from service.front.access.certificates import Certificates, CertificatesUnusable
from service.front.engine_client import SOON, STALLED, EngineClient
from service.front.http.bodies import Bodies
from service.front.http.connections import Connections
from service.front.http.inbox import Arrivals, Inbox
from service.front.http.turns import Turns
from service.front.images.decoder import ImageDecoder
from service.front.serving import Served, Serving
from service.hop import ServedBundle
from service.observability.log import RequestLog
from service.outcomes import NO_MODEL, Outcome
from service.problems import InvalidParameter, NotReady, Overloaded, Problem, problem_of
from service.scheduling.published import late_until
from service.schemas import ClassifyQuery
from service.settings import Settings

if TYPE_CHECKING:
    from service.observability.tracing import Tracer

SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
SHOWN_TOGETHER = 8  # requests
CROWD = 4  # requests that were read and wait: from then on the next may be shed by its head
STALLED_AFTER_LOOKS = 4  # at the engine's sign of life
WARM_UP = Preprocessing(size=32)
CROWDED = Overloaded(
    "more requests wait to be read than can be answered in time", headers={"Retry-After": "1"}
)


class Front:
    """One front. To be made and used on one event loop.

    Args:
        settings: every knob.
        log: takes events; nobody ever waits for it.
        board: where the engine shows its load, and fronts how busy they are.
        index: which of the fronts this is.
        lines_dropped: how many lines of the log were lost.

    Attributes:
        form_pacing: held by the image of a form that is next, while others' requests are looked at.
        long_reading: held while a thread reads a long message: several would take turns with the event loop each.
        draining: the server is about to stop, and still answers what reaches it.
    """

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        board: Board,
        index: int,
        lines_dropped: Callable[[], int],
    ) -> None:
        self.settings = settings
        self.log = log
        self.log_request = RequestLog(log, settings.log_sample)
        self.clock = time.monotonic
        self.arrivals = Arrivals()
        self.tracer = open_tracer(settings, self.clock)
        self.draining = False
        self.engine = EngineClient(
            self._open_served,
            lambda bundles: Serving(bundles, settings, board),
            on_flush=self.show,
            waiting=lambda: len(self.inbox),
        )
        self.connections = Connections(settings, self.engine.count_connection_ended)
        self.bodies = Bodies(
            settings.read_body_s, on_slow=lambda: self.connections.ended("slow_body")
        )
        self.certificates = Certificates(settings)
        self.access = Access(
            settings,
            board,
            index,
            clock=self.clock,
            log=log,
            count=self.engine.count_key_refused,
        )
        self._board = board
        self._index = index
        self._lines_dropped = lines_dropped
        self._dropped_before = board.get(index, places.LINES_DROPPED)
        self._ids = Random()  # the system's own lets go of the interpreter for each number
        self._handled = self._shed = self._unseen = self._streams = 0
        self._last: tuple[Served, ClassifyQuery] | None = None  # what was asked last
        self.inbox = Inbox(self)
        self.turns = Turns()
        self.long_reading = asyncio.Lock()
        self.form_pacing = asyncio.Lock()
        self._shed_cpu_s = 0.0
        self._pulse = Pulse(STALLED_AFTER_LOOKS)

    @property
    def serving(self) -> Serving:
        """What answers.

        Raises:
            NotReady: the engine is still warming up, or does not react.
        """
        if self.engine.is_stalled:
            raise NotReady(STALLED, headers=SOON)
        if self.engine.serving is None:
            raise NotReady("the server is warming up", headers=SOON)
        return self.engine.serving

    async def warm_up(self) -> None:
        """Do what only the first image would do."""
        await self._decoder(WARM_UP).warm_up()

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Count a stream for as long as it is answered.

        Raises:
            Overloaded: as many are as may be.
        """
        most = self.settings.max_streams
        if self._streams >= most:
            raise Overloaded(
                f"{most} streams are answered already, the most that may",
                headers={"Retry-After": "1"},
                limit=most,
            )
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def request_id(self, sent: bytes) -> str:
        """Return the client's own id if it is fit to be written to headers and logs, else a new one."""
        if sent and SANE_REQUEST_ID.fullmatch(sent):
            return sent.decode()
        return self._ids.getrandbits(128).to_bytes(16).hex()

    def ended(
        self,
        outcome: Outcome,
        request_id: str,
        arrived_at: float,
        problem: Problem | None = None,
        trace_id: str = "",
        model: str = NO_MODEL,
    ) -> None:
        """Account for a request that got no answer."""
        self.engine.count_request(outcome, model)
        self.log_request(
            outcome,
            lambda: {
                "request_id": request_id,
                **({"trace_id": trace_id} if trace_id else {}),
                "latency_ms": round(1e3 * (self.clock() - arrived_at), 3),
                **_told_of(problem),
            },
        )

    def check_head(
        self, arrived_at: float, query_string: bytes, *, lost_within_s: float
    ) -> Problem | None:
        """Say why a request is shed by its head, if it is: those read before it leave it no time, or no place.

        Args:
            arrived_at: when it did.
            query_string: its parameters.
            lost_within_s: with such a deadline or a shorter one it is lost; 0 if it has not waited to be read.
        """
        unread = self.arrivals.waiting
        if unread < CROWD and not lost_within_s:
            return None
        asked = self._asked(query_string)
        if asked is None:
            return None
        served, query = asked
        if served.idle_s() <= query.deadline_ms / 1e3 <= lost_within_s:
            self._last = asked
            return CROWDED
        return self.check_load(served, arrived_at, query, unread=unread)

    def patience_s(self, query_string: bytes) -> float | None:
        """Return how long after its arrival a request by its query should be answered; None where that is not valid.

        That is its deadline; where no machine meets it, as long as a late answer is of use.
        """
        asked = self._asked(query_string)
        if asked is None:
            return None
        served, query = asked
        deadline_s, idle_s = query.deadline_ms / 1e3, served.idle_s()
        if deadline_s >= idle_s:
            return deadline_s
        max_lateness = self.settings.max_lateness
        return late_until(0.0, deadline_s, query.on_miss, idle_s=idle_s, max_lateness=max_lateness)

    def _asked(self, query_string: bytes) -> tuple[Served, ClassifyQuery] | None:
        """Return what is asked, and how; None where that is not valid, which is told in its turn, or nobody answers."""
        if self.engine.serving is None:
            return None
        try:
            served = self.engine.serving.asked(query_string)
            return served, served.parse_query(query_string)
        except InvalidParameter:
            return None

    def met_from(self, due_at: float, now: float) -> float:
        """Return from when on a request must be due for any model to answer it in time, of those due about an instant.

        What is due before is shed, though it may have wanted a late answer: what waits behind it could be in time.
        """
        loads = [each.load() for each in self.engine.serving.bundles] if self.engine.serving else []
        ahead = self._ahead(self.arrivals.waiting)
        met = [each.met_from(due_at, now=now, ahead=ahead) for each in loads if each is not None]
        return min(met) if len(met) == len(loads) > 0 else -inf

    def deadline_s(self) -> float:
        """Return the deadline of the last request; of the first, that of requests that say none."""
        if self._last is None:
            return self.settings.default_deadline_ms / 1e3
        return self._last[1].deadline_ms / 1e3

    def check_load(
        self,
        served: Served,
        arrived_at: float,
        query: ClassifyQuery,
        *,
        unread: int = 0,
        is_alone: bool = False,
    ) -> Problem | None:
        """Say why a request is shed before its image is decoded, if it is: by what the engine shows of its load.

        Args:
            served: what would answer.
            arrived_at: when the request did.
            query: its parameters.
            unread: requests before it that were read and are still to be decoded.
            is_alone: whether no other request took time from it since it arrived.
        """
        self._last = served, query
        load = served.load()
        if load is None:
            return None
        shed = load.check_before_decode(
            arrived_at,
            arrived_at + query.deadline_ms / 1e3,
            query.on_miss,
            now=self.clock(),
            subnetwork=served.place_of(query.subnetwork),
            ahead=self._ahead(unread),
            is_alone=is_alone,
        )
        return problem_of(shed) if shed is not None else None

    def _ahead(self, unread: int) -> int:
        """Return how many requests of this front the engine does not know yet, with those that are still to be decoded."""
        on_its_way = self.engine.asks - self._board.get(self._index, places.RECEIVED)
        return unread + max(int(on_its_way), 0)

    def count_shed(
        self, problem: Problem, request_id: str, arrived_at: float, cost_s: float
    ) -> None:
        """Account for a request that was shed by its head, and what that cost this thread in seconds."""
        model = self._last[1].model if self._last is not None else NO_MODEL
        self.ended(problem.outcome, request_id, arrived_at, problem, model=model)
        self._shed += 1
        self._shed_cpu_s += cost_s
        self.count_unseen()

    def count_unseen(self) -> None:
        """Note that a request was refused which the engine never saw."""
        self._unseen += 1
        if self._unseen % SHOWN_TOGETHER == 0:
            self._show_unseen()

    def count_handled(self) -> None:
        """Note that a request has ended that was read to its end."""
        self._handled += 1
        if self._handled % SHOWN_TOGETHER == 0:  # to read this clock takes a microsecond
            self._board.set(self._index, places.HANDLED, self._handled)
            self._board.set(self._index, places.CPU_S, time.process_time())

    def _show_unseen(self) -> None:
        if self._last is not None:
            deadline_s = self._last[1].deadline_ms / 1e3
            self._board.set(self._index, places.UNSEEN_DEADLINE_S, deadline_s)
        self._board.set(self._index, places.UNSEEN, self._unseen)
        self._board.set(self._index, places.SHED, self._shed)
        self._board.set(self._index, places.SHED_CPU_S, self._shed_cpu_s)

    def show(self) -> None:
        """Show on the board what changes slowly."""
        self._show_unseen()
        self._board.set(self._index, places.CONNECTIONS, len(self.connections))
        lines_dropped = self._dropped_before + self._lines_dropped()
        self._board.set(self._index, places.LINES_DROPPED, lines_dropped)
        self._board.set(self._index, places.BEAT_AT, self.clock())

    def look(self) -> None:
        """See whether the engine works."""
        is_alive = not self._pulse.has_stopped(self._board.engine_beat_at)
        if self.engine.look(is_alive=is_alive):
            self.log.warning("engine_stalled", front=self._index)

    def refresh(self) -> None:
        """Read what files have changed: those of keys and of certificates."""
        self.access.refresh()
        try:
            if self.certificates.refresh():
                self.log.info("certificate_read")
        except CertificatesUnusable as error:
            self.log.error("certificate_unusable", reason=str(error))

    def close(self) -> None:
        """End what it began, after the last request was answered."""
        self.engine.close()
        if self.tracer is not None:
            self.tracer.close()

    def _decoder(self, preprocessing: Preprocessing) -> ImageDecoder:
        return ImageDecoder(
            preprocessing=preprocessing,
            max_pixels=self.settings.max_pixels,
            max_waiting=self.settings.max_queue,
            decode_s=self.settings.decode_s,
            decode_memory_bytes=self.settings.decode_memory_bytes,
            clock=self.clock,
            on_wake=self.arrivals.woke,
        )

    def _open_served(self, document: ServedBundle, on_empty: Callable[[], None]) -> Served:
        return Served(document, self.settings, self._board, self._decoder, on_empty)


def _told_of(problem: Problem | None) -> dict[str, str]:
    """Return what the log says of a problem: of one with what was sent, whose detail names it, no detail."""
    if problem is None:
        return {}
    if problem.outcome == "invalid":
        return {"problem": problem.slug()}
    return {"problem": problem.slug(), "detail": problem.detail}


def open_tracer(settings: Settings, clock: Callable[[], float]) -> "Tracer | None":
    """Return what records traces, if they are wanted."""
    if not settings.trace_sample:
        return None
    from service.observability.tracing import Tracer

    return Tracer(settings.trace_sample, __version__, clock, trust_callers=settings.trace_callers)
