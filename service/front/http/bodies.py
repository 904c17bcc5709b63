"""The bodies of requests: read within the limits of one, and of all together."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.problems import BodyTooLarge, BodyTooSlow, EmptyBody, Overloaded

KEPT_BYTES = 256 << 20  # one that is larger may still come, alone
FREE_BYTES = 64 << 10  # the begin of a body, which always has its place
STALLED_S = 1.0  # in which a body that is worth its place makes progress by
PROGRESS_BYTES = 64 << 10


class Bodies:
    """Reads bodies, and counts what is kept of them.

    Args:
        patience_s: how long one may take to come.
        on_slow: is called for each that does not.
    """

    def __init__(self, patience_s: float, *, on_slow: Callable[[], None]) -> None:
        self._patience_s = patience_s
        self._on_slow = on_slow
        self._kept_bytes = 0
        self._coming: set[_Coming] = set()

    async def read(self, request: Request, headers: Mapping[bytes, bytes], limit: int) -> bytes:
        """Return a body of at most ``limit`` bytes.

        Raises:
            BodyTooLarge: at once by its Content-Length, or as soon as more than the limit has come.
            BodyTooSlow: it does not come, or so slowly that others need its place.
            EmptyBody: there is none.
            Overloaded: too much of other bodies is kept.
        """
        announced = headers.get(b"content-length", b"0")
        if int(announced) > limit:
            raise _too_large(f"the body is {int(announced)} bytes", limit)
        if request.scope["state"].get("is_whole"):
            return _whole(await request.receive(), limit)
        try:
            async with asyncio.timeout(self._patience_s) as timeout:
                body = _Coming(timeout)
                self._coming.add(body)
                async for chunk in request.stream():
                    self._take(body, chunk, limit)
        except TimeoutError as error:
            self._on_slow()
            raise self._too_slow(body) from error
        finally:
            self._coming.discard(body)
            if not body.is_evicted:
                self._kept_bytes -= body.size
        if not body.size:
            raise EmptyBody("the body is empty")
        return b"".join(body.chunks)

    @contextmanager
    def kept(self, body: bytes) -> Iterator[None]:
        """Count a body that was read for as long as the block needs it."""
        self._kept_bytes += len(body)
        try:
            yield
        finally:
            self._kept_bytes -= len(body)

    def _take(self, body: "_Coming", chunk: bytes, limit: int) -> None:
        """Keep a part of a body, in the place of one that stalls if there is no other."""
        if body.is_evicted:
            raise TimeoutError
        size = body.size + len(chunk)
        most = max(KEPT_BYTES, limit)
        if size > FREE_BYTES and self._kept_bytes + len(chunk) > most:
            self._evict_stalled()
            if self._kept_bytes + len(chunk) > most:
                raise _too_many(self._kept_bytes)
        self._kept_bytes += len(chunk)
        body.take(chunk)
        if size > limit:
            raise _too_large(f"{size} bytes of the body have come", limit)

    def _evict_stalled(self) -> None:
        """Give up the body that has made no progress for the longest time, if one stalls."""
        stalled = min(self._coming, key=lambda each: each.progress_at)
        if time.monotonic() - stalled.progress_at > STALLED_S:
            self._coming.discard(stalled)
            self._kept_bytes -= stalled.size
            stalled.evict()

    def _too_slow(self, body: "_Coming") -> BodyTooSlow:
        if body.is_evicted:
            limit = STALLED_S
            detail = f"less than {PROGRESS_BYTES} bytes of the body came in {limit:g} s, and others needed its place"
        else:
            limit = self._patience_s
            detail = (
                f"{body.size} bytes of the body have come in {limit:g} s, the longest wait for all"
            )
        return BodyTooSlow(detail, headers={"Connection": "close"}, limit=limit)


class _Coming:
    """A body of which a part may have come."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._progress = 0
        self.progress_at = time.monotonic()
        self.chunks: list[bytes] = []
        self.size = 0
        self.is_evicted = False

    def take(self, chunk: bytes) -> None:
        """Keep a part, and note when it makes a step forward."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self.size - self._progress >= PROGRESS_BYTES:
            self._progress, self.progress_at = self.size, time.monotonic()

    def evict(self) -> None:
        """Have its reader give up at once."""
        self.is_evicted = True
        self.chunks.clear()
        self._timeout.reschedule(asyncio.get_running_loop().time())


def _whole(message: Message, limit: int) -> bytes:
    """Return a body that has come, as most have: nobody waits for it, and no others need its place."""
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message["body"]
    if len(body) > limit:
        raise _too_large(f"{len(body)} bytes of the body have come", limit)
    if not body:
        raise EmptyBody("the body is empty")
    return body


def _too_large(what: str, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"{what}, the limit is {limit}", limit=limit)


def _too_many(kept_bytes: int) -> Overloaded:
    return Overloaded(
        f"{kept_bytes} bytes of bodies are kept already, the most that may",
        headers={"Retry-After": "1", "Connection": "close"},
        limit=KEPT_BYTES,
    )
