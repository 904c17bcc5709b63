"""The front's end of the hop: it asks the engine, and knows what the engine serves."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from math import inf
from typing import Any, TypeVar, cast

from model.images import Pixels
from service.front.asked import Answered, Asked
from service.front.serving import Served, Serving
from service.hop import (
    Answer,
    Ask,
    Delivered,
    FrameReader,
    Kind,
    Record,
    ServedBundle,
    Tally,
    ask_frame,
    document_frame,
    frame,
    read_answer,
    read_delivered,
    read_document,
    read_shed,
    record_frame,
)
from service.outcomes import Ending, KeyRefusal, Outcome
from service.problems import NotReady, Problem, problem_of, unpacked

# What the engine need not know at once goes with the next request, or after this.
TELL_WITHIN_S = 0.02
# Requests are asked together as long as more of them are at hand, but no more than so many, and for no longer than this or
# that share of what the most urgent has left: on a busy core an engine that is woken for each answers them one by one.
ASKED_TOGETHER = 8
HELD_WITHIN_S = 0.005
MAY_BE_HELD = 0.2
STALLED, SOON = "the engine does not react", {"Retry-After": "1"}

T = TypeVar("T")


class EngineClient(asyncio.Protocol):
    """Asks the engine. To be made and used on one event loop; outlives engines.

    Args:
        open_served: makes what a front needs of a bundle that the engine serves from now on; is given what to call
            whenever its last request has left.
        open_serving: makes what a front needs of all of them.
        on_flush: is called before the engine is told all that is left to tell.
        waiting: says how many requests wait to be read, of which some are to be asked.
        clock: seconds, that of deadlines.

    Attributes:
        serving: what answers; None while no engine is warm.
        is_stalled: the engine gives no sign of life; it is asked nothing until it does.
    """

    def __init__(
        self,
        open_served: Callable[[ServedBundle, Callable[[], None]], Served],
        open_serving: Callable[[Sequence[Served]], Serving],
        on_flush: Callable[[], None],
        waiting: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.serving: Serving | None = None
        self.is_stalled = False
        self._open_served = open_served
        self._open_serving = open_serving
        self._on_flush = on_flush
        self._waiting = waiting
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._number = 0
        self._asks = 0  # of this engine
        self._asked: dict[int, Asked] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._lost = asyncio.Event()
        self._lost.set()
        self._replaced: list[Served] = []  # of this engine, with requests in them
        self._held: list[int] = []  # the generations that the engine was told last
        self._untold: list[bytes] = []
        self._tally = _no_tally()
        self._telling: asyncio.TimerHandle | None = None
        self._asking: list[bytes] = []  # of this engine, not written yet
        self._ask_by = 0.0  # when they are to be written at the latest

    @property
    def asks(self) -> int:
        """How many images this engine was asked to answer."""
        return self._asks

    # What a front asks

    async def answer(self, ask: Ask, pixels: Pixels) -> Answered:
        """Return the best answer to an image; cancelled, the engine forgets the request.

        Args:
            ask: the request.
            pixels: uint8 (H, W, 3).

        Raises:
            Problem: there is no answer.
        """
        asked = self._ask(ask, pixels)
        try:
            return await asked.last
        finally:
            self._forget(asked)

    async def answers(self, ask: Ask, pixels: Pixels) -> AsyncGenerator[tuple[Answered, bool]]:
        """Give each answer when it comes, and whether it is the last; see ``answer``. The last may come again as such."""
        asked = self._ask(ask, pixels)
        steps = asked.steps = asyncio.Queue()
        asked.last.add_done_callback(lambda _: steps.put_nowait(None))
        try:
            while (step := await steps.get()) is not None:
                yield step, False
            yield asked.last.result(), True
        finally:
            self._forget(asked)

    async def call(self, name: str, **arguments: Any) -> Any:
        """Have the engine do something other than answer; return what it returns.

        Raises:
            Problem: it cannot.
        """
        transport = self._connected()
        self._number = number = self._number % 0xFFFFFFFF + 1
        reply = self._calls[number] = self._loop.create_future()
        call = {"name": name, "arguments": arguments}
        transport.write(b"".join((*self._told(), document_frame(Kind.CALL, number, call))))
        try:
            return await reply
        finally:
            self._calls.pop(number, None)

    def record(self, record: Record) -> None:
        """Tell what became of a request that was answered."""
        self._tell_soon(record_frame(record))

    def count_request(self, outcome: Outcome, model: str) -> None:
        """Count a request that got no answer."""
        self._count(self._tally["requests"].setdefault(model, {}), outcome)

    def count_connection_ended(self, reason: Ending) -> None:
        """Count a connection that this front has ended."""
        self._count(self._tally["connections_ended"], reason)

    def count_key_refused(self, reason: KeyRefusal) -> None:
        """Count a request that was refused by its key."""
        self._count(self._tally["keys_refused"], reason)

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to ask an engine."""
        self._transport = cast(asyncio.Transport, transport)
        self._lost.clear()
        self._reader = FrameReader()
        self._asking = []
        self._held = []
        self._asks = 0
        self._tell_soon()  # what there was to tell while there was no engine

    def data_received(self, data: bytes) -> None:
        """Act on each message."""
        for kind, number, message in self._reader.feed(data):
            match kind:
                case Kind.ANSWER:
                    self._answered(number, read_answer(message))
                case Kind.DELIVERED:
                    self._delivered(number, read_delivered(message))
                case Kind.SHED:
                    self._failed(number, problem_of(read_shed(message)))
                case Kind.FAILED:
                    self._failed(number, unpacked(read_document(message)))
                case Kind.REPLY:
                    self._replied(number, read_document(message))
                case Kind.FLUSH:
                    self._on_flush()
                    self._write(*self._told(), frame(Kind.FLUSHED))
                case Kind.BUNDLES:
                    self._serve(read_document(message))

    def connection_lost(self, exc: Exception | None) -> None:
        """End what the engine has not ended, with the best answer so far if there is one: another engine is on its way."""
        serving, self._transport, self.serving = self.serving, None, None
        self.is_stalled = False
        self._replaced.clear()
        for served in serving.bundles if serving is not None else ():
            served.replaced()
        self._give_up(_ended())
        self._lost.set()

    def look(self, *, is_alive: bool) -> bool:
        """Ask the engine nothing while it gives no sign of life, and wait no longer for what it was asked; True if that is new."""
        was_stalled = self.is_stalled
        self.is_stalled = not is_alive and self._transport is not None
        if was_stalled and not self.is_stalled:
            self._tell_soon()
        has_stalled = self.is_stalled and not was_stalled
        if has_stalled:
            gone = [
                frame(Kind.GONE, each.number) for each in self._asked.values() if not each.is_over
            ]
            self._flush_asks()  # they are among them
            self._write(*self._told(), *gone)  # if it goes on, it need not answer them
            self._give_up(NotReady(STALLED, headers=SOON))
        return has_stalled

    async def lost(self) -> None:
        """Wait until there is no connection to an engine."""
        await self._lost.wait()

    def close(self) -> None:
        """Tell what is left to tell, and end the connection."""
        self._write(*self._told())
        if self._transport is not None:
            self._transport.close()

    # Its parts

    def _connected(self) -> asyncio.Transport:
        if self._transport is None:
            raise _ended()
        if self.is_stalled:
            raise NotReady(STALLED, headers=SOON)
        return self._transport

    def _give_up(self, problem: Problem) -> None:
        """End all that the engine has not, with the best answer so far if there is one."""
        now = self._clock()
        for asked in tuple(self._asked.values()):
            if asked.answers:
                self._delivered(asked.number, Delivered(now))
            else:
                self._end(asked, problem)
        for reply in tuple(self._calls.values()):
            if not reply.done():
                reply.set_exception(problem)

    def _ask(self, ask: Ask, pixels: Pixels) -> Asked:
        self._connected()
        self._asks += 1
        self._number = number = self._number % 0xFFFFFFFF + 1
        asked = self._asked[number] = Asked(number, self._loop.create_future())
        self._asking.append(ask_frame(number, ask, pixels.tobytes()))
        if len(self._asked) == 1 or len(self._asking) == ASKED_TOGETHER:
            self._flush_asks()
            return asked
        if len(self._asking) == 1:
            self._ask_by = inf
            self._loop.call_soon(self._ask_together)
        now = self._clock()
        held_s = min(HELD_WITHIN_S, MAY_BE_HELD * (ask.deadline_at - now))
        self._ask_by = min(self._ask_by, now + held_s)
        return asked

    def _ask_together(self) -> None:
        """Write what is asked once nothing more is at hand, or it was held as long as may be."""
        if self._asking and self._waiting() and self._clock() < self._ask_by:
            self._loop.call_soon(self._ask_together)
        else:
            self._flush_asks()

    def _flush_asks(self) -> None:
        asking, self._asking = self._asking, []
        if asking and self._transport is not None:  # else they have ended
            self._write(*self._told(), *asking)

    def _forget(self, asked: Asked) -> None:
        """Let go of a request, and tell the engine if it has not ended."""
        del self._asked[asked.number]
        if not asked.is_over:
            self._flush_asks()  # it may be among them
            self._write(frame(Kind.GONE, asked.number))
        elif not asked.last.cancelled():
            asked.last.exception()  # has been seen

    def _answered(self, number: int, answer: Answer) -> None:
        asked = self._asked.get(number)
        if asked is None:
            return
        answered = Answered(answer, tuple(asked.answers), answer.finished_at)
        if answer.is_last:
            self._end(asked, answered)
        else:
            asked.answers.append(answer)
            if asked.steps is not None:
                asked.steps.put_nowait(answered)

    def _delivered(self, number: int, delivered: Delivered) -> None:
        asked = self._asked.get(number)
        if asked is not None:
            *before, best = asked.answers
            self._end(asked, Answered(best, tuple(before), delivered.at))

    def _failed(self, number: int, problem: Problem) -> None:
        asked = self._asked.get(number)
        if asked is not None:
            self._end(asked, problem)

    def _end(self, asked: Asked, end: Answered | Problem) -> None:
        asked.is_over = True
        if asked.last.done():
            return
        if isinstance(end, Problem):
            asked.last.set_exception(end)
        else:
            asked.last.set_result(end)

    def _replied(self, number: int, document: dict[str, Any]) -> None:
        reply = self._calls.get(number)
        if reply is None or reply.done():
            return
        if "problem" in document:
            reply.set_exception(unpacked(document["problem"]))
        else:
            reply.set_result(document["result"])

    def _serve(self, documents: Sequence[ServedBundle]) -> None:
        """Have new requests answered by these bundles."""
        before = {each.generation: each for each in self.serving.bundles} if self.serving else {}
        bundles = [
            before.pop(each["generation"])
            if each["generation"] in before
            else self._open_served(each, self._release)
            for each in documents
        ]
        self.serving = self._open_serving(bundles)
        self._replaced += before.values()
        for each in before.values():
            each.replaced()
        self._release()

    def _release(self) -> None:
        """Tell the engine what may still be asked of it, where that has changed."""
        if self.serving is None:
            return
        self._replaced = [each for each in self._replaced if not each.is_empty]
        held = [each.generation for each in (*self.serving.bundles, *self._replaced)]
        if held != self._held:
            self._held = held
            self._write(document_frame(Kind.HELD, 0, held))

    def _count(self, counts: dict[T, int], label: T) -> None:
        counts[label] = counts.get(label, 0) + 1
        self._tell_soon()

    def _tell_soon(self, message: bytes = b"") -> None:
        """Tell the engine with the next request, or after a while."""
        if message:
            self._untold.append(message)
        if self._telling is None:
            self._telling = self._loop.call_later(TELL_WITHIN_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        if (
            self._transport is not None and not self.is_stalled
        ):  # else it, or the next one, is told later
            self._write(*self._told())

    def _told(self) -> list[bytes]:
        """Return what the engine is to be told, and forget it."""
        untold, self._untold = self._untold, []
        if any(self._tally.values()):
            untold.append(document_frame(Kind.TALLY, 0, self._tally))
            self._tally = _no_tally()
        return untold

    def _write(self, *frames: bytes) -> None:
        if self._transport is not None and frames:
            self._transport.write(b"".join(frames))


def _no_tally() -> Tally:
    return {"requests": {}, "connections_ended": {}, "keys_refused": {}}


def _ended() -> Problem:
    return NotReady("the engine has ended, another one starts", headers=SOON)
