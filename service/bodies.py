"""The bodies of requests: read within the limits of one, and of all together."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.requests import Request

from service.problems import BodyTooLarge, BodyTooSlow, EmptyBody, Overloaded

PATIENCE_S = 30.0
KEPT_BYTES = 256 << 20  # one that is larger may still come, alone


class Bodies:
    """Reads bodies, and counts what is kept of them."""

    def __init__(self) -> None:
        self._kept_bytes = 0

    async def read(self, request: Request, headers: Mapping[bytes, bytes], limit: int) -> bytes:
        """Return a body of at most ``limit`` bytes.

        Raises:
            BodyTooLarge: at once by its Content-Length, or as soon as more than the limit has come.
            BodyTooSlow: it does not come.
            EmptyBody: there is none.
            Overloaded: too much of other bodies is kept.
        """
        announced = headers.get(b"content-length", b"0")
        if int(announced) > limit:
            raise _too_large(f"the body is {int(announced)} bytes", limit)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for chunk in request.stream():
                    if self._kept_bytes + len(chunk) > max(KEPT_BYTES, limit):
                        raise _too_many(self._kept_bytes)
                    chunks.append(chunk)
                    size += len(chunk)
                    self._kept_bytes += len(chunk)
                    if size > limit:
                        raise _too_large(f"{size} bytes of the body have come", limit)
        except TimeoutError as error:
            raise BodyTooSlow(
                f"{size} bytes of the body have come in {PATIENCE_S:g} s, the longest wait for all",
                headers={"Connection": "close"},
                limit=PATIENCE_S,
            ) from error
        finally:
            self._kept_bytes -= size
        if not size:
            raise EmptyBody("the body is empty")
        return b"".join(chunks)

    @contextmanager
    def kept(self, body: bytes) -> Iterator[None]:
        """Count a body that was read for as long as the block needs it."""
        self._kept_bytes += len(body)
        try:
            yield
        finally:
            self._kept_bytes -= len(body)


def _too_large(what: str, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"{what}, the limit is {limit}", limit=limit)


def _too_many(kept_bytes: int) -> Overloaded:
    return Overloaded(
        f"{kept_bytes} bytes of bodies are kept already, the most that may",
        headers={"Retry-After": "1", "Connection": "close"},
        limit=KEPT_BYTES,
    )
