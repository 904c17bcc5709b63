"""The transport of the command line to the application in its own process."""

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service.cli.inside import InsideTransport

pytestmark = pytest.mark.anyio

START = {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]}


async def test_each_part_of_a_reply_comes_when_it_is_sent() -> None:
    goes_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked = await receive()
        await send(START)
        await send({"type": "http.response.body", "body": asked["body"], "more_body": True})
        await goes_on.wait()
        await send({"type": "http.response.body", "body": scope["query_string"]})

    async with (
        httpx.AsyncClient(transport=InsideTransport(app), base_url="http://inside") as client,
        client.stream("POST", "/a", params={"q": 1}, content=b"body") as reply,
    ):
        parts = reply.aiter_raw()
        first = await anext(parts)
        goes_on.set()
        rest = [part async for part in parts]

    assert (reply.status_code, reply.headers["x"]) == (200, "y")
    assert (first, rest) == (b"body", [b"q=1"])


async def test_work_for_a_reply_that_nobody_reads_is_stopped() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        try:
            await receive()
            await receive()  # until the client goes
        finally:
            ended.set()

    async with httpx.AsyncClient(
        transport=InsideTransport(app), base_url="http://inside"
    ) as client:
        async with client.stream("GET", "/") as reply:
            await anext(reply.aiter_raw())
        await ended.wait()


async def test_a_failure_of_the_application_is_raised() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async with httpx.AsyncClient(
        transport=InsideTransport(app), base_url="http://inside"
    ) as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/")
