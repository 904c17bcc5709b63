"""Whom a command asks: the server at a URL, or one inside this process, with the same client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from service.cli.exits import MISUSED, fail, importing
from service.settings import SettingsError, read_settings

if TYPE_CHECKING:
    from service.client import AsyncClient

GRACE_MS = 10_000.0  # a late answer is of interest too
INSIDE = {"max_batch": "1", "agreement_sample": "0", "trace_sample": "0", "log_sample": "0"}

T = TypeVar("T")
Work = Callable[["AsyncClient"], Awaitable[T]]


def is_url(text: str) -> bool:
    """Return whether this names a server rather than a folder."""
    return "://" in text


def ask_server(url: str, work: Work[T]) -> T:
    """Run a command's work with a client of a server; end the command where it cannot be asked."""
    with importing("cpu"):
        from service.client import AnytimeError, AsyncClient
    try:
        client = AsyncClient(url, grace_ms=GRACE_MS)
    except ValueError as error:
        fail(str(error), MISUSED)

    async def run() -> T:
        async with client:
            return await work(client)

    try:
        return asyncio.run(run())
    except AnytimeError as error:
        fail(str(error))


def ask_bundle(folder: str | None, work: Work[T]) -> T:
    """Run a command's work with a client of a server in this process; end the command where there can be none.

    Args:
        folder: of the bundle; if it is None, that of the settings.
        work: is given the client once the networks are warm.
    """
    with importing("cpu"):
        import service.front.app  # noqa: F401
        from service.client import AnytimeError

    async def run() -> T:
        async with _inside(folder) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except AnytimeError as error:
        fail(str(error))


@asynccontextmanager
async def _inside(folder: str | None) -> "AsyncIterator[AsyncClient]":
    """Warm a bundle up in this process; give a client of its application."""
    from PIL import Image

    from service.cli.inside import InsideTransport
    from service.client import AsyncClient
    from service.engine.serving import UNUSABLE
    from service.front.app import create_app, describe, read_current_bundle
    from service.observability.log import open_log

    try:
        settings = read_settings(INSIDE | ({} if folder is None else {"bundle_dir": folder}))
    except SettingsError as error:
        fail(str(error), MISUSED)
    try:
        app = create_app(settings, open_log(lambda line: None))
        service = app.state.service
        await service.start(read_current_bundle(settings))
    except UNUSABLE as error:
        fail(describe(error))

    transport = InsideTransport(app)
    try:
        async with AsyncClient("http://inside", grace_ms=GRACE_MS, transport=transport) as client:
            await client.classify(Image.new("RGB", (1, 1)))  # a first request finds all parts cold
            yield client
    finally:
        service.stop()
