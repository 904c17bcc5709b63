"""Whom a command asks: the server at a URL, or one of its own, with the same client."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from service.cli.exits import FAILED, MISUSED, fail, importing

if TYPE_CHECKING:
    from service.client import AsyncClient

GRACE_MS = 10_000.0  # a late answer is of interest too
OWN = {
    "ANYTIME_HOST": "127.0.0.1",
    "ANYTIME_PORT": "0",
    "ANYTIME_KEYS_FILE": "",
    "ANYTIME_FRONTS": "1",
    "ANYTIME_MAX_BATCH": "1",
    "ANYTIME_AGREEMENT_SAMPLE": "0",
    "ANYTIME_TRACE_SAMPLE": "0",
    "ANYTIME_LOG_SAMPLE": "0",
    "ANYTIME_DRAIN_S": "0",
}

T = TypeVar("T")
Work = Callable[["AsyncClient"], Awaitable[T]]


def is_url(text: str) -> bool:
    """Return whether this names a server rather than a folder."""
    return "://" in text


def ask_server(url: str, work: Work[T]) -> T:
    """Run a command's work with a client of a server; end the command where it cannot be asked."""
    with importing("cpu"):
        from service.client import AnytimeError, AsyncClient
        from service.settings import KEY_VARIABLE
    try:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else None
        client = AsyncClient(url, grace_ms=GRACE_MS, headers=headers)
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
    """Run a command's work with a client of a server of its own; end the command where there can be none.

    Args:
        folder: of the bundle; if it is None, that of the settings.
        work: is given the client once the networks are warm.
    """
    with importing("cpu"):
        from PIL import Image

        from service.client import AnytimeError, AsyncClient

    async def run() -> T:
        async with _server(folder) as url, AsyncClient(url, grace_ms=GRACE_MS) as client:
            await client.classify(Image.new("RGB", (1, 1)))  # a first request finds all parts cold
            return await work(client)

    try:
        return asyncio.run(run())
    except AnytimeError as error:
        fail(str(error))


@asynccontextmanager
async def _server(folder: str | None) -> AsyncIterator[str]:
    """Start a server on a free port of this machine alone; give its URL once it is warm."""
    settings = OWN | ({} if folder is None else {"ANYTIME_BUNDLE_DIR": folder})
    server = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-P",
            "-m",
            "service",
        ),  # of whatever folder this is run in, nothing counts
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # this command ends it
    )
    assert server.stdout is not None
    assert server.stderr is not None
    try:
        url = ""
        async for line in server.stdout:
            event = json.loads(line)
            if event["event"] == "listening":
                url = event["url"]
            if event["event"] == "ready":
                break
        else:
            reason = (await server.stderr.read()).decode().strip().removeprefix("anytime: ")
            fail(reason, MISUSED if await server.wait() == MISUSED else FAILED)
        yield url
    finally:
        with suppress(ProcessLookupError):
            server.terminate()
        await server.wait()
