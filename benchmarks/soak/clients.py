"""The clients of a soak: each sends one request, well or ill, and says what became of it."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HOST = "127.0.0.1"
PATIENCE_S = 60.0  # longer than the server lets anything take
VANISHED_S = 1.0  # most between a request and the end of a client that does not wait
FATES = {400: "invalid", 408: "invalid", 413: "invalid", 415: "invalid", 422: "invalid", 429: "refused", 503: "refused", 504: "expired"}  # fmt: skip
GARBAGE = [
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 40_000),
]


@dataclass(slots=True)
class Site:
    """What all clients share.

    Attributes:
        port: of the server, on this machine.
        images: that are valid.
        corpus: that is hostile, as bodies.
        deadline_ms: of each request.
        query: further parameters.
        idle: connections on which another request may be sent.
        sent_again: requests that found a kept connection ended, and were sent on a new one.
    """

    port: int
    images: Sequence[bytes]
    corpus: Sequence[bytes]
    deadline_ms: float
    rng: Random
    query: str = ""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    sent_again: int = 0

    def request(self, body: bytes, path: str = "/classify", query: str = "") -> bytes:
        """Return a request to classify a body."""
        target = f"{path}?deadline_ms={self.deadline_ms:g}{self.query}{query}"
        head = f"POST {target} HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def image(self) -> bytes:
        """Return one of the images."""
        return self.rng.choice(self.images)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a new connection."""
        return await asyncio.open_connection(HOST, self.port)


Client = Callable[[Site], Awaitable[str]]


async def valid(site: Site) -> str:
    """Ask on a connection that is kept; if it has ended unused, ask once more on a new one, as clients of HTTP do."""
    request = site.request(site.image())
    is_kept = bool(site.idle)
    reader, writer = site.idle.pop() if is_kept else await site.connect()
    try:
        writer.write(request)
        try:
            fate, stays = await _read(reader)
        except (ConnectionError, EOFError) as error:
            has_begun = isinstance(error, asyncio.IncompleteReadError) and error.partial
            if not is_kept or has_begun:
                raise
            site.sent_again += 1
            writer.close()
            reader, writer = await site.connect()
            writer.write(request)
            fate, stays = await _read(reader)
    except (OSError, EOFError):
        writer.close()
        return "broken"
    if stays:
        site.idle.append((reader, writer))
    else:
        writer.close()
    return fate


async def streaming(site: Site) -> str:
    """Ask for a stream, and read it to its end."""
    reader, writer = await site.connect()
    request = site.request(site.image(), "/classify/stream")
    writer.write(request.replace(b"Host", b"Connection: close\r\nAccept: application/x-ndjson\r\nHost", 1))  # fmt: skip
    data = await reader.read(-1)
    writer.close()
    if not data.startswith(b"HTTP/1.1 200"):
        return FATES.get(int(data[9:12] or 0), "failed")
    last = data.rstrip(b"\r\n0").rpartition(b"\n{")[2]
    return "in_time" if b'"in_time":true' in last else "late"


async def invalid(site: Site) -> str:
    """Ask with a parameter or an image that cannot be."""
    queries = ["&top_k=-1", "&deadline=5", "&subnetwork=none"]
    request = site.rng.choice(
        [site.request(b"no image"), site.request(site.image(), query=site.rng.choice(queries))]
    )
    return await _once(site, [request])


async def slow(site: Site) -> str:
    """Send the request in pieces, a second in all."""
    request = site.request(site.image())
    cuts = [20, 100, len(request) // 2, len(request) - 1]
    pieces = [request[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    return await _once(site, pieces, pause_s=0.2)


async def half_closing(site: Site) -> str:
    """Send the request and the end of the stream, then read."""
    return await _once(site, [site.request(site.image())], ends=True)


async def vanishing(site: Site) -> str:
    """Send all, or a part, and go before the reply."""
    request = site.request(site.image())
    _, writer = await site.connect()
    writer.write(request[: site.rng.choice([10, len(request) // 2, len(request)])])
    await writer.drain()
    await asyncio.sleep(site.rng.random() * min(site.deadline_ms / 1e3, VANISHED_S))
    linger = struct.pack("ii", 1, 0)  # a reset
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    return "vanished"


async def hostile(site: Site) -> str:
    """Send what was made to break readers."""
    sent = site.rng.choice([site.request(site.rng.choice(site.corpus)), site.rng.choice(GARBAGE)])
    fate = await _once(site, [sent])
    return "outside" if not sent.startswith(b"POST /classify?") else fate


KINDS: dict[Client, float] = {
    valid: 0.76,
    streaming: 0.04,
    invalid: 0.05,
    slow: 0.05,
    half_closing: 0.04,
    vanishing: 0.03,
    hostile: 0.03,
}  # shares of the requests


def read_corpus(folder: Path) -> list[bytes]:
    """Return what is in the files below a folder."""
    return [each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()]


async def _once(
    site: Site, pieces: Sequence[bytes], *, pause_s: float = 0.0, ends: bool = False
) -> str:
    """Send pieces on a connection of their own, and read one reply."""
    reader, writer = await site.connect()
    try:
        for place, piece in enumerate(pieces):
            if place:
                await asyncio.sleep(pause_s)
            writer.write(piece)
            await writer.drain()
        if ends:
            writer.write_eof()
        fate, _ = await _read(reader)
        return fate
    except (OSError, EOFError):
        return "broken"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """Return what a reply says, and whether its connection stays."""
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        lowered = head.lower()
        length = int(lowered.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
    stays = b"connection: close" not in lowered
    status = int(head[9:12])
    if status == 200:
        answer = json.loads(body)
        first = answer[0] if isinstance(answer, list) else answer
        return ("in_time" if first["in_time"] else "late"), stays
    if status == 408 and b"/problems/head-too-slow" in body:
        return "outside", stays  # for the server it was no request yet
    if status == 422:
        is_impossible = b"/problems/deadline-impossible" in body
        return ("impossible" if is_impossible else "invalid"), stays
    return FATES.get(status, "failed"), stays
