"""A request to classify, from its body to an answer for each of its images, or a problem: every end of it is accounted for."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from model.images import Pixels
from service.front.uploads import read_upload
from service.problems import InternalError, NotReady, Problem, render
from service.schemas import ClassifyQuery

if TYPE_CHECKING:
    from service.engine.serving import Serving
    from service.front.app import Service

ENDED = "the server, or its bundle, ended before the answer was found"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was answered."""

    request_id: str
    arrived_at: float
    query: ClassifyQuery
    pixels: Pixels
    decoding_at: float
    decode_s: float
    headers: Mapping[bytes, bytes]


Answering = Callable[["Service", "Serving", Asked], Awaitable[Response | None]]


@dataclass(frozen=True, slots=True)
class Received:
    """A request to classify one image, before the image is looked at; of a form with several files, one of them.

    Attributes:
        state: of its HTTP request; it has ``left`` once the client has gone.
    """

    service: "Service"
    path: str
    request_id: str
    arrived_at: float
    headers: Mapping[bytes, bytes]
    state: Mapping[str, Any]


async def handle(
    request: Request, answer: Answering, *, takes_several: bool = False
) -> Response | None:
    """Read a request to classify and have it answered; return what is still to be sent: the answer, or a problem.

    Args:
        request: whose body was not read yet.
        answer: of one image.
        takes_several: whether a form may hold several, each to be answered.
    """
    service = service_of(request)
    state: dict[str, Any] = request.scope["state"]
    headers: dict[bytes, bytes] = dict(request.scope["headers"])
    received = Received(
        service,
        request.scope["path"],
        service.request_id(headers.get(b"x-request-id", b"")),
        state.get("arrived_at") or service.clock(),
        headers,
        state,
    )
    return await _accounted(received, _read_and_answer(request, received, answer, takes_several))


async def _read_and_answer(
    request: Request, received: Received, answer: Answering, takes_several: bool
) -> Response | None:
    """Read a request, and answer its file, or each of its files."""
    service, headers = received.service, received.headers
    body = await service.bodies.read(request, headers, service.settings.max_body_bytes)
    serving = serving_of(service)
    # Entered with the whole body: a slow sender keeps no bundle from being replaced.
    with serving:
        read_at = service.clock()
        upload = read_upload(
            body, headers.get(b"content-type", b""), headers.get(b"content-encoding", b"")
        )
        query = serving.parse_query(request.scope["query_string"], upload.fields)
        if takes_several and len(upload.files) > 1:
            return await _answer_each(serving, received, query, read_at, upload.files, answer)
        return await _answer_file(serving, received, query, read_at, upload.only_file(), answer)


async def _answer_each(
    serving: "Serving",
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    files: Sequence[bytes],
    answer: Answering,
) -> Response:
    """Reply with the documents of what becomes of each file, in their order: each is a request of its own."""

    async def outcome(n: int, file: bytes) -> bytes:
        own = replace(received, request_id=f"{received.request_id}-{n}")
        with serving:
            response = await _accounted(
                own, _answer_file(serving, own, query, read_at, file, answer)
            )
        assert response is not None
        return bytes(response.body)

    try:
        documents = await asyncio.gather(*(outcome(n, file) for n, file in enumerate(files, 1)))
    except asyncio.CancelledError:  # each has ended then, and is accounted for
        return _rendered(NotReady(ENDED), received.request_id)
    return Response(
        b"[" + b",".join(documents) + b"]",
        headers={"X-Request-ID": received.request_id},
        media_type="application/json",
    )


async def _answer_file(
    serving: "Serving",
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    file: bytes,
    answer: Answering,
) -> Response | None:
    """Decode an image and have it answered."""
    service, arrived_at = received.service, received.arrived_at
    deadline_at = arrived_at + query.deadline_ms / 1e3
    serving.dispatcher.check_before_decode(
        arrived_at=arrived_at,
        deadline_at=deadline_at,
        on_miss=query.on_miss,
        subnetwork=query.subnetwork,
        was_alone=serving.is_alone_since(arrived_at),
    )
    with service.bodies.kept(file):
        pixels = await serving.decoder.decode(
            file,
            give_up_at=serving.scheduler.admission.late_until(
                arrived_at, query.deadline_ms / 1e3, query.on_miss, query.subnetwork
            ),
        )
    decode_s = service.clock() - read_at
    asked = Asked(
        received.request_id, arrived_at, query, pixels, read_at, decode_s, received.headers
    )
    return await answer(service, serving, asked)


async def _accounted(received: Received, work: Awaitable[Response | None]) -> Response | None:
    """Return what a request's work returns, or the problem that it ends in, which is accounted for."""
    service, request_id, arrived_at = received.service, received.request_id, received.arrived_at
    try:
        return await work
    except Problem as problem:
        service.ended(problem.outcome, request_id, arrived_at, problem)
        if service.tracer is not None:
            service.tracer.record(
                (f"POST {received.path}", arrived_at, service.clock()),
                [],
                headers=received.headers,
                attributes={
                    "http.response.status_code": problem.status,
                    "anytime.request_id": request_id,
                    "anytime.outcome": problem.outcome,
                },
                problem=problem.detail,
            )
        return _rendered(problem, request_id)
    except (asyncio.CancelledError, ClientDisconnect, TimeoutError) as error:
        stopped = NotReady(ENDED)
        if isinstance(error, asyncio.CancelledError) and not received.state.get(
            "left"
        ):  # a drain is over
            service.ended(stopped.outcome, request_id, arrived_at, stopped)
        else:
            service.ended("abandoned", request_id, arrived_at)
        return _rendered(stopped, request_id)
    except Exception as error:
        service.log.error("request_crashed", request_id=request_id, exc_info=error)
        service.ended("failed", request_id, arrived_at)
        return _rendered(InternalError("the server failed to handle the request"), request_id)


def _rendered(problem: Problem, request_id: str) -> Response:
    """Return the response that tells a client of a problem with its request."""
    response = render(problem)
    response.headers["X-Request-ID"] = request_id
    return response


def service_of(request: Request) -> "Service":
    """Return what the endpoints share."""
    service: Service = request.app.state.service
    return service


def serving_of(service: "Service") -> "Serving":
    """Return what answers.

    Raises:
        NotReady: the server is still warming up.
    """
    if service.serving is None:
        raise NotReady("the server is warming up", headers={"Retry-After": "1"})
    return service.serving
