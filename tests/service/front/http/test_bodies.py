"""Bodies are read as far as one, and all together, may be."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.requests import Request

from service.front.http import bodies
from service.front.http.bodies import Bodies
from service.problems import BodyTooLarge, BodyTooSlow, Overloaded

pytestmark = pytest.mark.anyio


def request_of(*chunks: bytes) -> Request:
    """A request whose body comes in chunks; after the last one, if that is empty, nothing comes any more."""

    async def parts() -> AsyncIterator[dict[str, object]]:
        for chunk in chunks:
            if not chunk:
                await asyncio.Event().wait()
            more = chunk is not chunks[-1]
            yield {"type": "http.request", "body": chunk, "more_body": more}

    receive: Callable[[], Awaitable[dict[str, object]]] = parts().__anext__
    return Request({"type": "http", "method": "POST", "headers": [], "state": {}}, receive)


def patient() -> Bodies:
    return Bodies(60.0, on_slow=lambda: None)


async def test_a_body_is_put_together() -> None:
    assert await patient().read(request_of(b"an ", b"image"), {}, limit=8) == b"an image"


async def test_a_body_without_a_length_is_refused_where_it_passes_the_limit() -> None:
    with pytest.raises(BodyTooLarge, match="8 bytes of the body have come, the limit is 7"):
        await patient().read(request_of(b"an ", b"image", b"more"), {}, limit=7)


async def test_a_body_that_does_not_come_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow: list[str] = []
    impatient = Bodies(0.01, on_slow=lambda: slow.append("one"))

    with pytest.raises(BodyTooSlow, match=r"3 bytes of the body have come in 0\.01 s") as raised:
        await impatient.read(request_of(b"an ", b""), {}, limit=8)

    assert raised.value.headers["Connection"] == "close"
    assert slow == ["one"]


async def test_a_body_that_stalls_gives_its_place_to_one_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "KEPT_BYTES", 12)
    monkeypatch.setattr(bodies, "FREE_BYTES", 0)
    monkeypatch.setattr(bodies, "STALLED_S", 0.0)
    shared = patient()
    stalled = asyncio.create_task(shared.read(request_of(b"ten bytes!", b""), {}, limit=12))
    await asyncio.sleep(0)  # its first chunk has come

    assert await shared.read(request_of(b"an ", b"image"), {}, limit=12) == b"an image"
    with pytest.raises(BodyTooSlow, match="others needed its place"):
        await stalled


async def test_the_begin_of_a_body_always_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "KEPT_BYTES", 1)
    shared = patient()

    with shared.kept(b"decoded"):
        assert await shared.read(request_of(b"image"), {}, limit=5) == b"image"


async def test_all_bodies_together_have_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "FREE_BYTES", 0)
    monkeypatch.setattr(bodies, "KEPT_BYTES", 12)
    shared = patient()

    with shared.kept(b"decoded"):
        with pytest.raises(Overloaded, match="10 bytes of bodies are kept already"):
            await shared.read(request_of(b"an ", b"image"), {}, limit=8)
        assert await shared.read(request_of(b"image"), {}, limit=8) == b"image"
    assert await shared.read(request_of(b"an ", b"image"), {}, limit=8) == b"an image"
