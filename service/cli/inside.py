"""A transport of httpx to an application in this process; unlike httpx's own, it gives each part of a reply when it comes."""

import asyncio
from collections.abc import AsyncIterator

import httpx
from starlette.types import ASGIApp, Message


class InsideTransport(httpx.AsyncBaseTransport):
    """Sends requests to an ASGI application.

    Args:
        app: whose lifespan has begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the head of the reply; its body is read as it comes."""
        content = await request.aread()
        messages: asyncio.Queue[Message] = asyncio.Queue()
        sent = asyncio.Event()

        async def receive() -> Message:
            if sent.is_set():
                await (
                    asyncio.Event().wait()
                )  # nobody leaves before the end; the reader cancels the work
            sent.set()
            return {"type": "http.request", "body": content, "more_body": False}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": None,
            "server": None,
            "state": {},
        }
        work = asyncio.ensure_future(self._app(scope, receive, messages.put))
        # Behind what the application sends; of one that fails, in place of it.
        work.add_done_callback(lambda _: messages.put_nowait({"type": "ended"}))
        head = await messages.get()
        if head["type"] != "http.response.start":
            work.result()
            raise httpx.RemoteProtocolError("the application has not replied", request=request)
        return httpx.Response(head["status"], headers=head["headers"], stream=_Body(messages, work))


class _Body(httpx.AsyncByteStream):
    """The parts of a reply's body."""

    def __init__(self, messages: "asyncio.Queue[Message]", work: "asyncio.Future[None]") -> None:
        self._messages = messages
        self._work = work

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give each part when it comes."""
        has_more = True
        while has_more:
            message = await self._messages.get()
            if message["type"] == "ended":
                self._work.result()
                return
            yield message.get("body", b"")
            has_more = message.get("more_body", False)

    async def aclose(self) -> None:
        """Stop the work on what is not read."""
        self._work.cancel()
