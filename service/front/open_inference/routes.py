"""The protocol over HTTP: ``/v2``."""

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from service import __version__
from service.front.classify import rendered
from service.front.front import Front
from service.front.open_inference import documents
from service.front.open_inference.documents import Document
from service.front.open_inference.inference import infer as infer_images
from service.front.open_inference.inference import model_statistics, served_model, versions
from service.front.open_inference.messages import (
    check_load,
    model_of,
    read_request,
    takes_long,
    wants_ready_only,
    write_reply,
)
from service.front.received import Received, accounted, receive
from service.front.routes import check_ready, front_of
from service.problems import EmptyBody, Problem, UnsupportedEncoding

router = APIRouter(prefix="/v2", include_in_schema=False)  # the protocol is described elsewhere


@router.get("")
async def server() -> Document:
    """Say what the server is, and what of the protocol it speaks."""
    return documents.server_metadata(__version__)


@router.get("/health/live")
async def live() -> Document:
    """Answer while the process can."""
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> Document:
    """Answer 200 while requests should be sent here."""
    check_ready(front_of(request))
    return {"ready": True}


@router.get("/models/stats")
async def stats_of_all(request: Request) -> Document:
    """Give counts and times of the requests since the start."""
    front = front_of(request)
    return await model_statistics(front, front.serving.bundles)


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
async def metadata(request: Request, model: str, version: str = "") -> Document:
    """List the inputs and outputs of the bundle."""
    serving = front_of(request).serving
    served = served_model(serving, model, version)
    return documents.model_metadata(model, served.manifest, versions(serving, model))


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
async def model_ready(request: Request, model: str, version: str = "") -> Document:
    """Answer 200 while requests for the bundle should be sent here."""
    front = front_of(request)
    check_ready(front)
    served_model(front.serving, model, version)
    return {"name": model, "ready": True}


@router.get("/models/{model}/config")
@router.get("/models/{model}/versions/{version}/config")
async def config(request: Request, model: str, version: str = "") -> Document:
    """Give the configuration of the bundle in Triton's words."""
    served = served_model(front_of(request).serving, model, version)
    return documents.model_config(served.bundle_name["name"], served.manifest)


@router.get("/models/{model}/stats")
@router.get("/models/{model}/versions/{version}/stats")
async def stats(request: Request, model: str, version: str = "") -> Document:
    """Give counts and times of the requests since the start."""
    front = front_of(request)
    return await model_statistics(front, [served_model(front.serving, model, version)])


@router.post("/repository/index")
async def index(request: Request) -> list[Document]:
    """List the bundles."""
    front = front_of(request)
    ready_only = wants_ready_only(await _optional_body(front, request) or b"{}")
    names = [each.bundle_name for each in front.serving.bundles]
    return documents.repository_index(names, is_ready=not front.draining, ready_only=ready_only)


@router.post("/repository/models/{model}/load")
@router.post("/repository/models/{model}/unload")
async def reload(request: Request, model: str) -> Document:
    """Answer from the bundle that is in the model's folder now: there is one, so that what unloads it loads it again."""
    front = front_of(request)
    check_load(await _optional_body(front, request) or b"{}")
    await front.engine.call("reload", model=served_model(front.serving, model, "").name)
    return {}


async def _optional_body(front: Front, request: Request) -> bytes:
    headers = dict(request.scope["headers"])
    try:
        return await front.bodies.read(request, headers, front.settings.max_body_bytes)
    except EmptyBody:
        return b""


@router.post("/models/{model}/infer")
@router.post("/models/{model}/versions/{version}/infer")
async def infer(request: Request) -> Response:
    """Answer the images in a request, each with the most accurate answer that fits in its deadline."""
    front = front_of(request)
    received = receive(front, request)
    response = await accounted(front, received, _infer(front, received, request))
    return rendered(front, response, received) if isinstance(response, Problem) else response


async def _infer(front: Front, received: Received, request: Request) -> Response:
    """Read a request, and answer it."""
    headers = received.headers
    model, version = model_of(received.path)
    served_model(front.serving, model, version)  # an unknown one is told first, whatever the body
    body = await front.bodies.read(request, headers, front.settings.max_body_bytes)
    served = served_model(front.serving, model, version, received.request_id)
    received.state["model"] = served.name
    with served:
        read_at = front.clock()
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if encoding != "identity":
            raise UnsupportedEncoding(
                f"the body has the Content-Encoding {encoding!r}; send it as it is",
                headers={"Accept-Encoding": "identity"},
            )
        side = served.manifest.preprocessing.size
        read = partial(read_request, body, headers, side, request.scope["query_string"])
        if takes_long(body, headers):
            with front.bodies.kept(body):
                async with front.long_reading:
                    asked = await asyncio.to_thread(read)
        else:
            asked = read()
        outcome = await infer_images(front, served, received, asked, read_at)
        if isinstance(outcome, Problem):  # of one of several, accounted for
            return rendered(front, outcome, received)
        reply, json_size = write_reply(
            asked,
            outcome.probabilities,
            served.manifest.labels,
            model=served.bundle_name["name"],
            version=served.bundle_name["digest"],
            parameters=outcome.parameters,
        )
    reply_headers = {"X-Request-ID": received.request_id}
    if json_size is None:
        return Response(reply, headers=reply_headers, media_type="application/json")
    reply_headers["Inference-Header-Content-Length"] = str(json_size)
    return Response(reply, headers=reply_headers, media_type="application/octet-stream")
