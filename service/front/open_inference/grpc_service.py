"""The protocol over gRPC: ``GRPCInferenceService`` on the event loop of a front. A call's deadline is the request's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from grpc import aio

from service import __version__
from service.front.classify import find_steps
from service.front.front import Front
from service.front.open_inference import documents
from service.front.open_inference.documents import Document
from service.front.open_inference.grpc_connections import GrpcConnections
from service.front.open_inference.grpc_messages import (
    SERVICE,
    Message,
    message_class,
    methods,
    parse,
    read_message,
    reply_message,
)
from service.front.open_inference.inference import (
    Inferred,
    infer,
    inferred,
    model_statistics,
    served_model,
    versions,
)
from service.front.open_inference.messages import check_load_parameters
from service.front.open_inference.tensors import InvalidInference
from service.front.received import Received, accounted
from service.front.routes import check_ready
from service.front.serving import Served
from service.problems import (
    DeadlineImpossible,
    Expired,
    InternalError,
    NotReady,
    Overloaded,
    Problem,
)

STREAM_REQUESTS = 64  # of one stream that are answered at the same time; the next waits to be read
BACK_S = (
    0.001  # from the reply to the client's code, which has to have it before the call's deadline
)
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
EMPTY: Mapping[str, str] = MappingProxyType({})

Context = aio.ServicerContext[Any, Any]


async def open_grpc(front: Front, host: str, port: int) -> aio.Server:
    """Listen for calls, on a port that other fronts listen on too."""
    settings = front.settings
    server = aio.server(
        interceptors=[_Gate(front)],
        maximum_concurrent_rpcs=settings.max_connections,
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.absolute_max_metadata_size", settings.max_head_bytes),
            ("grpc.max_metadata_size", settings.max_head_bytes),
            ("grpc.server_handshake_timeout_ms", round(1e3 * settings.read_head_s)),
            ("grpc.max_connection_idle_ms", round(1e3 * settings.keep_alive_s)),
            ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ],
    )
    server.add_generic_rpc_handlers((GrpcService(front).handler(),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if front.certificates.context is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, _credentials(front))
    await server.start()
    GrpcConnections(
        port,
        most=settings.max_connections_per_address,
        proxies=front.access.proxies,
        on_ended=lambda: front.connections.ended("address"),
    ).watch()
    return server


def _credentials(front: Front) -> grpc.ServerCredentials:
    """Return what gRPC speaks TLS with: the files as they are when a client connects."""

    def read() -> Any:
        key, certificate, authorities = front.certificates.files()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)

    return grpc.dynamic_ssl_server_credentials(
        read(), read, require_client_authentication=front.settings.tls_client_ca is not None
    )


class _Gate(aio.ServerInterceptor):
    """Refuses by its head a call that bears no key for it, before its message is read; what is served nobody else learns."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Pass a call on to its method, or to its refusal."""
        headers, port = _pairs(details.invocation_metadata), self._front.settings.grpc_port
        found = self._front.access.find(details.method, headers, "", port)
        if not isinstance(found, Problem):
            return await continuation(details)
        problem = found

        async def refuse(messages: AsyncIterator[bytes], context: Context) -> None:
            await _abort(context, problem)

        return grpc.stream_stream_rpc_method_handler(refuse)  # which reads none of them


class GrpcService:
    """The methods of the service.

    Args:
        front: what they share.
    """

    def __init__(self, front: Front) -> None:
        self._front = front

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what gRPC calls for each method."""
        documented: dict[str, Callable[[Message, Context], Awaitable[Document]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._reload,
            "RepositoryModelUnload": self._reload,
        }
        handlers = {}
        for method in methods():
            reply = message_class(method.output_type.name)
            # Requests come as bytes: gRPC has no code but UNKNOWN for what cannot be parsed.
            answered = {"response_serializer": reply.SerializeToString}
            if method.name == "ModelInfer":
                handler = grpc.unary_unary_rpc_method_handler(self._infer, **answered)
            elif method.name == "ModelStreamInfer":
                handler = grpc.stream_stream_rpc_method_handler(self._stream, **answered)
            else:
                asked = message_class(method.input_type.name)
                call = partial(self._say, method.name, documented[method.name], asked, reply)
                handler = grpc.unary_unary_rpc_method_handler(call, **answered)
            handlers[method.name] = handler
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # What is said of the server and the bundle

    async def _say(
        self,
        method: str,
        say: Callable[[Message, Context], Awaitable[Document]],
        asked: Message,
        reply: Message,
        content: bytes,
        context: Context,
    ) -> Message:
        """Reply with a document as a message."""
        try:
            with self._entered(method, context) as headers:
                document = await say(parse(asked(), content), context)
        except Problem as problem:
            return await _abort(context, problem)
        context.set_trailing_metadata(_metadata(headers))
        return ParseDict(document, reply())

    async def _live(self, request: Message, context: Context) -> Document:
        return {"live": True}

    async def _ready(self, request: Message, context: Context) -> Document:
        try:
            check_ready(self._front)
        except NotReady:
            return {"ready": False}
        return {"ready": True}

    async def _metadata(self, request: Message, context: Context) -> Document:
        return documents.server_metadata(__version__)

    async def _model_ready(self, request: Message, context: Context) -> Document:
        is_ready = (await self._ready(request, context))["ready"]
        if is_ready:
            self._served(request.name, request.version)
        return {"ready": is_ready}

    async def _model_metadata(self, request: Message, context: Context) -> Document:
        served = self._served(request.name, request.version)
        there = versions(self._front.serving, request.name)
        return documents.model_metadata(request.name, served.manifest, there)

    async def _model_config(self, request: Message, context: Context) -> Document:
        served = self._served(request.name, request.version)
        return {"config": documents.model_config(served.bundle_name["name"], served.manifest)}

    async def _model_statistics(self, request: Message, context: Context) -> Document:
        if request.name:
            bundles: Sequence[Served] = [self._served(request.name, request.version)]
        else:
            bundles = self._front.serving.bundles
        return await model_statistics(self._front, bundles)

    async def _index(self, request: Message, context: Context) -> Document:
        front = self._front
        names = [each.bundle_name for each in front.serving.bundles]
        index = documents.repository_index(
            names, is_ready=not front.draining, ready_only=request.ready
        )
        return {"models": index}

    async def _reload(self, request: Message, context: Context) -> Document:
        served = self._served(request.model_name, "")
        check_load_parameters(request.parameters)
        await self._front.engine.call("reload", model=served.name)
        return {}

    def _served(self, model: str, version: str, request_id: str = "") -> Served:
        return served_model(self._front.serving, model, version, request_id)

    # What is inferred

    async def _infer(self, content: bytes, context: Context) -> Message:
        """Answer the images in a request."""
        received = self._receive("ModelInfer", context)
        remaining_ms = _remaining_ms(context)
        try:
            with self._entered("ModelInfer", context) as headers:
                answer = self._answer(received, content, remaining_ms)
                outcome = await accounted(self._front, received, answer)
        except Problem as problem:
            return await _abort(context, problem)
        said = {"x-request-id": received.request_id, **headers}
        if isinstance(outcome, Problem):
            return await _abort(context, outcome, said)
        context.set_trailing_metadata(_metadata(said))
        return reply_message(outcome)

    async def _answer(
        self, received: Received, content: bytes, remaining_ms: float | None
    ) -> Inferred | Problem:
        request = parse(message_class("ModelInferRequest")(), content)
        served = self._served(request.model_name, request.model_version, received.request_id)
        received.state["model"] = served.name
        with served:
            read_at = self._front.clock()
            side = served.manifest.preprocessing.size
            asked = read_message(request, received.headers, remaining_ms, side)
            return await infer(self._front, served, received, asked, read_at)

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer each request of a stream with better and better answers; several at the same time."""
        slots, writing = asyncio.Semaphore(STREAM_REQUESTS), asyncio.Lock()

        async def write(**fields: Any) -> None:
            async with writing:
                await context.write(message_class("ModelStreamInferResponse")(**fields))

        async def answer(content: bytes, received: Received, remaining_ms: float | None) -> None:
            request = message_class("ModelInferRequest")()
            try:
                try:
                    with self._entered("ModelStreamInfer", context):
                        steps = self._steps(content, request, received, remaining_ms, write)
                        problem = await accounted(self._front, received, steps)
                except Problem as refusal:
                    problem = refusal
                if problem is not None:
                    response = message_class("ModelInferResponse")(id=request.id)
                    await write(error_message=problem.detail, infer_response=response)
            finally:
                slots.release()

        try:
            with self._front.streaming():
                async with asyncio.TaskGroup() as group:
                    async for content in requests:
                        await slots.acquire()
                        received = self._receive("ModelStreamInfer", context)
                        group.create_task(answer(content, received, _remaining_ms(context)))
        except Overloaded as problem:
            await _abort(context, problem)

    async def _steps(
        self,
        content: bytes,
        request: Message,
        received: Received,
        remaining_ms: float | None,
        write: Callable[..., Awaitable[None]],
    ) -> None:
        """Write each answer to the image of a request, which is still to be parsed, when it comes."""
        parse(request, content)
        served = self._served(request.model_name, request.model_version, received.request_id)
        received.state["model"] = served.name
        with served:
            read_at = self._front.clock()
            side = served.manifest.preprocessing.size
            asked = read_message(request, received.headers, remaining_ms, side)
            if len(asked.images) > 1:
                raise InvalidInference(
                    f"a request of a stream brings 1 image, not {len(asked.images)}"
                )
            query = served.parse_query(b"", asked.choices)
            (image,) = asked.images
            steps = find_steps(self._front, served, received, query, read_at, image)
            async with aclosing(steps):
                async for found, is_last in steps:
                    message = reply_message(
                        inferred(served, asked, [found]), triton_final_response=is_last
                    )
                    await write(infer_response=message)

    @contextmanager
    def _entered(self, method: str, context: Context) -> Iterator[Mapping[str, str]]:
        """Take a request out of what its key may ask for, for as long as it is answered; give what its reply says of that."""
        headers, port = _pairs(context.invocation_metadata()), self._front.settings.grpc_port
        entered = self._front.access.enter(f"/{SERVICE}/{method}", headers, "", port)
        if isinstance(entered, Problem):
            raise entered
        try:
            yield entered.headers
        finally:
            entered.leave()

    def _receive(self, method: str, context: Context) -> Received:
        """Return what the head of a call says; who cancels one has left."""
        headers = dict(_pairs(context.invocation_metadata()))
        return Received(
            f"/{SERVICE}/{method}",
            self._front.request_id(headers.get(b"x-request-id", b"")),
            self._front.clock(),
            headers,
            {"left": True},
        )


def _pairs(metadata: Any) -> list[tuple[bytes, bytes]]:
    """Return the metadata of a call as headers."""
    return [
        (name.encode(), value.encode() if isinstance(value, str) else value)
        for name, value in metadata or ()
    ]


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return headers of a reply as metadata."""
    return tuple((name.lower(), value) for name, value in headers.items())


def _remaining_ms(context: Context) -> float | None:
    """Return the deadline of a call, counted from now, if it has one."""
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return None
    return 1e3 * max(remaining_s - BACK_S, 1e-6)


async def _abort(context: Context, problem: Problem, headers: Mapping[str, str] = EMPTY) -> Any:
    """End a call with a problem, and its headers and those given as metadata."""
    if isinstance(problem, DeadlineImpossible | Expired):
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    elif isinstance(problem, Overloaded):
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    elif isinstance(problem, InternalError):
        code = grpc.StatusCode.INTERNAL
    else:
        code = CODES.get(problem.status, grpc.StatusCode.UNKNOWN)
    await context.abort(code, problem.detail, _metadata({**headers, **problem.headers}))
