"""A request to classify, from its body to its reply: read, decode, ask the engine, write, record."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from math import inf
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from model.images import Pixels
from service.front.asked import Answered
from service.front.front import Front
from service.front.http.problem_replies import render
from service.front.http.uploads import Upload, read_upload
from service.front.images.decoder import Larger
from service.front.received import ENDED, Decoded, Received, accounted, receive, record
from service.front.serving import Served
from service.hop import Ask
from service.problems import Expired, InvalidUpload, NotReady, Overloaded, Problem
from service.scheduling.published import late_until
from service.scheduling.requests import Refine
from service.schemas import ClassifyQuery


class Found(NamedTuple):
    """The best answer to an image, and the document of it."""

    answered: Answered
    reply: dict[str, Any]


async def classify(front: Front, request: Request) -> Response:
    """Return the reply to a request: the answer to its image, or to each of several, or a problem."""
    received = receive(front, request)
    response = await accounted(front, received, _classify(front, received, request))
    if isinstance(response, Problem):
        return rendered(front, response, received)
    return response


async def steps(
    front: Front, received: Received, request: Request
) -> AsyncGenerator[dict[str, Any]]:
    """Give the document of each answer to a request's image when it comes; the last is ``final``.

    Raises:
        Problem: there is none.
    """
    body = await front.bodies.read(request, received.headers, front.settings.max_body_bytes)
    read_at = front.clock()
    upload, served = _parse(front, received, request, body)
    with served:
        query = served.parse_query(request.scope["query_string"], upload.fields)
        finding = find_steps(front, served, received, query, read_at, upload.only_file())
        async with aclosing(finding):
            async for found, is_last in finding:
                yield {**found.reply, "final": is_last}


async def find_steps(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    image: bytes | Pixels,
) -> AsyncGenerator[tuple[Found, bool]]:
    """Give each answer to an image when it comes, and whether it is the last, which is recorded; see ``find``."""
    decoded = await _decode(front, served, received, query, read_at, image)
    ask = _ask(served, received, query, "steps", is_alone=False)
    first_answer_s: float | None = None
    async with aclosing(front.engine.answers(ask, decoded.pixels)) as answers:
        async for answered, is_last in answers:
            if first_answer_s is None:
                _check_is_of_use(front, served, received, query)
            reply = _reply(front, served, received, query, answered)
            if first_answer_s is None:
                first_answer_s = reply["latency_ms"] / 1e3
            if is_last:
                record(front, served, received, query, decoded, answered, reply, first_answer_s)
            yield Found(answered, reply), is_last


async def find(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    image: bytes | Pixels,
) -> Found:
    """Return the best answer to an image, recorded.

    Args:
        served: what is to answer; the request has entered it.
        query: its parameters.
        read_at: when its request was read to the end.
        image: its file, or its pixels as the network takes them.

    Raises:
        Problem: there is none.
    """
    is_alone = front.serving.is_alone_since(received.arrived_at, front.arrivals.waiting)
    decoded = await _decode(front, served, received, query, read_at, image, is_alone=is_alone)
    refine: Refine = "none" if query.stop_at_confidence is None else "deepest"
    ask = _ask(served, received, query, refine, is_alone=is_alone)
    answered = await front.engine.answer(ask, decoded.pixels)
    _check_is_of_use(front, served, received, query)
    reply = _reply(front, served, received, query, answered)
    record(front, served, received, query, decoded, answered, reply)
    return Found(answered, reply)


async def find_each(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    images: Sequence[bytes | Pixels],
) -> list[Found | Problem]:
    """Return what becomes of each of several images, in their order: each is a request of its own, and accounted for."""

    if len(images) > (most := front.settings.max_files):
        raise InvalidUpload(f"the request holds {len(images)} images, the most that may is {most}")

    async def outcome(n: int, image: bytes | Pixels) -> Found | Problem:
        own = received._replace(request_id=f"{received.request_id}-{n}")
        with served:
            return await accounted(front, own, find_in_turn(own, image))

    async def find_in_turn(own: Received, image: bytes | Pixels) -> Found:
        if isinstance(image, bytes):
            async with front.form_pacing:  # others' requests are looked at between any two images
                await asyncio.sleep(0)
        return await find(front, served, own, query, read_at, image)

    try:
        return await asyncio.gather(*(outcome(n, image) for n, image in enumerate(images, 1)))
    except asyncio.CancelledError:  # each has ended then
        return [NotReady(ENDED)] * len(images)


async def _classify(front: Front, received: Received, request: Request) -> Response:
    """Read a request, and answer its file, or each of its files."""
    body = await front.bodies.read(request, received.headers, front.settings.max_body_bytes)
    # Entered with the whole body: a slow sender keeps no bundle from being replaced.
    read_at = front.clock()
    upload, served = _parse(front, received, request, body)
    with served:
        query = served.parse_query(request.scope["query_string"], upload.fields)
        if len(upload.files) > 1:
            outcomes = await find_each(front, served, received, query, read_at, upload.files)
            root_path = front.settings.root_path
            documents = [
                to_json(each.body(root_path) if isinstance(each, Problem) else each.reply)
                for each in outcomes
            ]
            return JsonReply(b"[" + b",".join(documents) + b"]", received.request_id)
        found = await find(front, served, received, query, read_at, upload.only_file())
        return JsonReply(to_json(found.reply), received.request_id)


class JsonReply(Response):
    """A reply in JSON. All of its head is known: Starlette's would be put together from what may be."""

    def __init__(self, body: bytes, request_id: str) -> None:
        self.status_code, self.background = HTTPStatus.OK, None
        self.body = body
        self.raw_headers = [
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]


def _parse(
    front: Front, received: Received, request: Request, body: bytes
) -> tuple[Upload, Served]:
    """Return the files of a request, and what is to answer it."""
    serving, headers = front.serving, received.headers
    upload = read_upload(
        body, headers.get(b"content-type", b""), headers.get(b"content-encoding", b"")
    )
    served = serving.asked(request.scope["query_string"], upload.fields, received.request_id)
    received.state["model"] = served.name
    return upload, served


async def _decode(
    front: Front,
    served: Served,
    received: Received,
    query: ClassifyQuery,
    read_at: float,
    image: bytes | Pixels,
    *,
    is_alone: bool = False,
) -> Decoded:
    """Decode an image, unless its request is lost already."""
    problem = front.check_load(served, received.arrived_at, query, is_alone=is_alone)
    try:
        if problem is not None:
            raise problem
        if isinstance(image, bytes):
            pixels = served.decoder.decode_small(image)
            if isinstance(pixels, Larger):
                with front.bodies.kept(image):
                    pixels = await _decode_in_turn(front, served, received, query, pixels)
        else:
            pixels = image
    except (Overloaded, Expired):
        front.count_unseen()
        raise
    return Decoded(pixels, read_at, front.clock() - read_at)


async def _decode_in_turn(
    front: Front, served: Served, received: Received, query: ClassifyQuery, image: Larger
) -> Pixels:
    deadline_s, load = query.deadline_ms / 1e3, served.load()
    useful_until = late_until(
        received.arrived_at,
        deadline_s,
        query.on_miss,
        idle_s=served.idle_s(query.subnetwork),
        max_lateness=front.settings.max_lateness,
    )
    run_s = load.run_s[served.place_of(query.subnetwork)] if load is not None else 0.0
    return await served.decoder.decode_in_turn(
        image,
        in_time_by=received.arrived_at + deadline_s - run_s,
        of_use_by=useful_until - run_s,
    )


def _ask(
    served: Served, received: Received, query: ClassifyQuery, refine: Refine, *, is_alone: bool
) -> Ask:
    """Return what the engine is asked."""
    return Ask(
        served.generation,
        received.arrived_at,
        received.arrived_at + query.deadline_ms / 1e3,
        query.on_miss,
        refine,
        served.place_in_list(query.subnetwork),
        inf if query.stop_at_confidence is None else query.stop_at_confidence,
        is_alone,
    )


def _check_is_of_use(
    front: Front, served: Served, received: Received, query: ClassifyQuery
) -> None:
    """See that an answer is not later than any may be: what had time when it was let in may have met a stall.

    Raises:
        Expired: it is.
    """
    age_s, deadline_s = front.clock() - received.arrived_at, query.deadline_ms / 1e3
    if age_s <= deadline_s:
        return
    useful_s = late_until(
        0.0,
        deadline_s,
        "answer",
        idle_s=served.idle_s(query.subnetwork),
        max_lateness=front.settings.max_lateness,
    )
    if age_s > useful_s:
        detail = f"the answer came {1e3 * age_s:.0f} ms after the request, and is of use for {1e3 * useful_s:g} ms"
        raise Expired(detail)


def _reply(
    front: Front, served: Served, received: Received, query: ClassifyQuery, answered: Answered
) -> dict[str, Any]:
    """Return the document of an answer."""
    answer = answered.answer
    confidences = memoryview(answer.probabilities).cast("f")  # (classes,)
    labels = served.manifest.labels
    subnetwork = served.subnetworks[answer.subnetwork]
    best = (-np.frombuffer(answer.probabilities, np.float32)).argsort(kind="stable")[: query.top_k]
    top = [
        {"label": labels[k], "class_id": k, "confidence": round(confidences[k], 6)}
        for k in best.tolist()
    ]
    latency_ms = 1e3 * (front.clock() - received.arrived_at)
    return {
        "request_id": received.request_id,
        **top[0],
        "top": top,
        "subnetwork": subnetwork["name"],
        "expected_accuracy": subnetwork["expected_accuracy"],
        "deadline_ms": query.deadline_ms,
        "latency_ms": round(latency_ms, 3),
        "queue_ms": round(1e3 * (answered.runs[0].started_at - received.arrived_at), 3),
        "run_ms": round(1e3 * (answer.finished_at - answer.started_at), 3),
        "in_time": latency_ms <= query.deadline_ms,
        "bundle": served.bundle_name,
    }


def rendered(front: Front, problem: Problem, received: Received) -> Response:
    """Return the response that tells a client of a problem with its request."""
    response = render(problem, received.path, front.settings.root_path)
    response.headers["X-Request-ID"] = received.request_id
    return response
