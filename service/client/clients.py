"""The clients: they carry out the steps of a call over httpx, and decide nothing."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from typing import Any, Self, TypeVar, Unpack, overload

import anyio
import httpx

from service.client.calls import Call, Calls, Failure, Options, Pause, Reply, Request, Send
from service.client.documents import Answer, Score, SubnetworkList
from service.client.images import ImageLike
from service.client.problems import DeadlineExceeded, Problem, Unreachable

URL = "http://127.0.0.1:8000"
TIMEOUT_S = 30.0
RETRIES = 2
# A connection is dropped here before the server drops it, after 75 s: a request must not meet its end.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=60.0)

T = TypeVar("T")


class Client:
    """Calls a server; to be used from any number of threads, and closed at the end.

    Args:
        url: of the server.
        timeout_s: the longest that a call without a deadline waits.
        grace_ms: how long a call waits for a late answer after its deadline; without it, the deadline is the end.
        retries: how often what was not processed is sent again, within the deadline.
        headers: sent with every request, such as ``Authorization`` for a proxy.
        transport: of httpx, instead of its own.

    Every call raises ``DeadlineExceeded``, ``Unreachable``, ``UnexpectedReply``, or the class of the server's problem.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        timeout_s: float = TIMEOUT_S,
        grace_ms: float = 0.0,
        retries: int = RETRIES,
        headers: dict[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._calls = Calls(
            timeout_s=timeout_s, grace_s=grace_ms / 1e3, retries=retries, clock=time.monotonic
        )
        self._http = httpx.Client(
            base_url=_checked(url), headers=headers, limits=LIMITS, transport=transport
        )

    @overload
    def classify(
        self, image: list[Any] | tuple[Any, ...], **options: Unpack[Options]
    ) -> list[Answer | Problem]: ...
    @overload
    def classify(self, image: ImageLike, **options: Unpack[Options]) -> Answer: ...
    def classify(
        self, image: ImageLike, **options: Unpack[Options]
    ) -> Answer | list[Answer | Problem]:
        """Return the most accurate answer to an image that fits in the deadline.

        Of a list or tuple of images the outcomes come in its order, an ``Answer`` or a ``Problem`` each.

        Args:
            image: bytes, a path, a file, a Pillow image or an array, or several of them.
            options: see ``Options``.
        """
        if isinstance(image, list | tuple):
            return self._drive(self._calls.classify_all(image, options))
        return self._drive(self._calls.classify(image, options))

    def stream(self, image: ImageLike, **options: Unpack[Options]) -> Iterator[Answer]:
        """Give answers from ever more accurate subnetworks, as they are found; the last is ``final``.

        Where no more are wanted, close the iterator, or leave the loop: what is left is then not run.
        """
        responses: list[httpx.Response] = []
        events = self._drive(self._calls.open_stream(image, options), keep=responses)
        with closing(responses[-1]) as response, _told():
            for line in response.iter_lines():
                yield events.read(line)
        events.end()

    def feedback(self, answer: Answer | str, label: str) -> Score:
        """Say what was on an image, by its answer or the id of it."""
        return self._drive(self._calls.feedback(answer, label))

    def subnetworks(self, model: str | None = None) -> SubnetworkList:
        """Return what the server can answer with, and what that costs now; of one of several models, by default the first."""
        return self._drive(self._calls.subnetworks(model))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self.close()

    def _drive(self, call: Call[T], *, keep: list[httpx.Response] | None = None) -> T:
        """Carry out the steps of a call; return what it returns."""
        outcome: Reply | Failure | None = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            match step:
                case Send(request, timeout_s):
                    outcome = self._send(request, timeout_s, keep)
                case Pause(seconds):
                    time.sleep(seconds)
                    outcome = None

    def _send(
        self, request: Request, timeout_s: float, keep: list[httpx.Response] | None
    ) -> Reply | Failure:
        """Send a request; where ``keep`` is given, an answer's body is left to be read, and the response is kept there."""
        trip = _Trip(request)
        built = trip.build(self._http, timeout_s, trip.trace)
        try:
            response = self._http.send(built, stream=True)
            trip.has_head = True
            if keep is not None and response.is_success:
                keep.append(response)
            else:
                with closing(response):
                    response.read()
        except httpx.TransportError as error:
            return trip.failure(error)
        return trip.reply(response, is_whole=keep is None or not response.is_success)


class AsyncClient:
    """Calls a server, as ``Client`` does, from asyncio or Trio; to be closed at the end.

    Args:
        url, timeout_s, grace_ms, retries, headers: of ``Client``.
        transport: of httpx, instead of its own.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        timeout_s: float = TIMEOUT_S,
        grace_ms: float = 0.0,
        retries: int = RETRIES,
        headers: dict[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._calls = Calls(
            timeout_s=timeout_s, grace_s=grace_ms / 1e3, retries=retries, clock=time.monotonic
        )
        self._http = httpx.AsyncClient(
            base_url=_checked(url), headers=headers, limits=LIMITS, transport=transport
        )

    @overload
    async def classify(
        self, image: list[Any] | tuple[Any, ...], **options: Unpack[Options]
    ) -> list[Answer | Problem]: ...
    @overload
    async def classify(self, image: ImageLike, **options: Unpack[Options]) -> Answer: ...
    async def classify(
        self, image: ImageLike, **options: Unpack[Options]
    ) -> Answer | list[Answer | Problem]:
        """Return the most accurate answer to an image that fits in the deadline; see ``Client.classify``."""
        if isinstance(image, list | tuple):
            return await self._drive(self._calls.classify_all(image, options))
        return await self._drive(self._calls.classify(image, options))

    async def stream(self, image: ImageLike, **options: Unpack[Options]) -> AsyncIterator[Answer]:
        """Give answers from ever more accurate subnetworks, as they are found; see ``Client.stream``."""
        responses: list[httpx.Response] = []
        events = await self._drive(self._calls.open_stream(image, options), keep=responses)
        async with aclosing(responses[-1]) as response:
            with _told():
                async for line in response.aiter_lines():
                    yield events.read(line)
        events.end()

    async def feedback(self, answer: Answer | str, label: str) -> Score:
        """Say what was on an image, by its answer or the id of it."""
        return await self._drive(self._calls.feedback(answer, label))

    async def subnetworks(self, model: str | None = None) -> SubnetworkList:
        """Return what the server can answer with, and what that costs now; of one of several models, by default the first."""
        return await self._drive(self._calls.subnetworks(model))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Close it."""
        await self.aclose()

    async def _drive(self, call: Call[T], *, keep: list[httpx.Response] | None = None) -> T:
        """Carry out the steps of a call; return what it returns."""
        outcome: Reply | Failure | None = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            match step:
                case Send(request, timeout_s):
                    outcome = await self._send(request, timeout_s, keep)
                case Pause(seconds):
                    await anyio.sleep(seconds)
                    outcome = None

    async def _send(
        self, request: Request, timeout_s: float, keep: list[httpx.Response] | None
    ) -> Reply | Failure:
        """Send a request; see ``Client``."""
        trip = _Trip(request)
        built = trip.build(self._http, timeout_s, trip.trace_async)
        try:
            with anyio.fail_after(timeout_s):
                response = await self._http.send(built, stream=True)
                trip.has_head = True
                if keep is not None and response.is_success:
                    keep.append(response)
                else:
                    async with aclosing(response):
                        await response.aread()
        except (httpx.TransportError, TimeoutError) as error:
            return trip.failure(error)
        return trip.reply(response, is_whole=keep is None or not response.is_success)


class _Trip:
    """One request on its way, and how far it has come."""

    def __init__(self, request: Request) -> None:
        self.has_head = False
        self._request = request
        self._started_at = time.monotonic()
        self._sent_at: float | None = None

    def build(
        self,
        http: httpx.Client | httpx.AsyncClient,
        timeout_s: float,
        trace: Callable[[str, Any], Any],
    ) -> httpx.Request:
        """Return the request as httpx has it; ``trace`` is told of each step of it."""
        request = self._request
        return http.build_request(
            request.method,
            request.path,
            params=request.params,
            headers=request.headers,
            content=None if request.files else request.body,
            files=[("file", (f"{n}", content)) for n, content in enumerate(request.files)] or None,
            timeout=timeout_s,
            extensions={"trace": trace},
        )

    def trace(self, event: str, info: Any) -> None:
        """Note when the connection is there and the request begins."""
        if event.endswith("send_request_headers.started"):
            self._sent_at = time.monotonic()

    async def trace_async(self, event: str, info: Any) -> None:
        """Note it."""
        self.trace(event, info)

    def reply(self, response: httpx.Response, *, is_whole: bool) -> Reply:
        """Return what came."""
        return Reply(
            response.status_code,
            response.headers,
            response.content if is_whole else b"",
            self._sent_at or self._started_at,
            time.monotonic(),
        )

    def failure(self, error: Exception) -> Failure:
        """Return why nothing came."""
        if isinstance(error, httpx.TimeoutException | TimeoutError):
            return Failure("late", "")
        if self._sent_at is None:
            return Failure("unsent", f"no connection to the server: {_reason(error)}")
        return Failure(
            "broken" if self.has_head else "unanswered", f"the connection ended: {_reason(error)}"
        )


def _checked(url: str) -> httpx.URL:
    """Return the URL of a server.

    Raises:
        ValueError: it is none.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is no URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is no URL of a server, such as {URL}")
    return parsed


@contextmanager
def _told() -> Iterator[None]:
    """Say it in this package's terms when a stream breaks."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise DeadlineExceeded("the next answer did not come in time") from error
    except httpx.TransportError as error:
        raise Unreachable(f"the stream broke: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what an error says, or its name where it says nothing."""
    return str(error) or type(error).__name__
