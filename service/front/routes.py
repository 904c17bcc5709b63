"""The endpoints: they translate between HTTP and the parts, and decide nothing."""

import asyncio
import gzip
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import PlainTextResponse, Response

from service.front.classify import classify as classify_image
from service.front.documentation import (
    CANARY_RESPONSES,
    CLASSIFY,
    CLASSIFY_RESPONSES,
    FEEDBACK,
    FEEDBACK_RESPONSES,
    LIST_RESPONSES,
    METRICS_RESPONSES,
    PROBLEM_PAGE,
    PROBLEM_PAGE_RESPONSES,
    READY_RESPONSES,
    RELOAD_RESPONSES,
    STREAM,
    STREAM_RESPONSES,
)
from service.front.front import Front
from service.front.stream import AnswerStream
from service.problems import (
    CATALOGUE,
    BodyTooLarge,
    EmptyBody,
    InvalidFeedback,
    NotFound,
    NotReady,
)
from service.schemas import (
    Answer,
    BundleName,
    CanaryShare,
    Health,
    Outcomes,
    Reloaded,
    Score,
    SubnetworkEntry,
    SubnetworkList,
    parse_feedback,
    parse_share,
)

MAX_FEEDBACK_BYTES = 4096

router = APIRouter()
AdminKey = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def front_of(request: Request) -> Front:
    """Return what the endpoints share."""
    front: Front = request.scope["front"]
    return front


def check_ready(front: Front) -> None:
    """See to it that requests should be sent here.

    Raises:
        NotReady: the server starts or stops.
    """
    if front.draining:
        raise NotReady("the server is stopping", headers={"Retry-After": "1"})
    assert front.serving


@router.post(
    "/classify",
    response_model=Answer | Outcomes,
    responses=CLASSIFY_RESPONSES,
    openapi_extra=CLASSIFY,
)
async def classify(request: Request) -> Response:
    """Give the most accurate answer that fits in the deadline, which counts from the arrival of the request."""
    return await classify_image(front_of(request), request)


@router.post(
    "/classify/stream",
    response_class=Response,
    responses=STREAM_RESPONSES,
    openapi_extra=STREAM,
)
async def classify_stream(request: Request) -> Response:
    """Give a first answer at once, and better ones until the deadline; server-sent events, or NDJSON by ``Accept``."""
    return AnswerStream(front_of(request), request)


@router.post("/feedback", responses=FEEDBACK_RESPONSES, openapi_extra=FEEDBACK)
async def feedback(request: Request) -> Score:
    """Say what was on an image, to count whether its answer was right.

    The labels of an answer of a bundle that was replaced meanwhile say nothing of the one that answers now: they are
    compared, and not counted with its own.
    """
    front = front_of(request)
    try:
        body = await front.bodies.read(request, dict(request.scope["headers"]), MAX_FEEDBACK_BYTES)
        sent = parse_feedback(body)
    except (BodyTooLarge, EmptyBody, InvalidFeedback):
        await front.engine.call("invalid_feedback")
        raise
    return Score(
        **await front.engine.call("feedback", request_id=sent.request_id, label=sent.label)
    )


@router.get("/subnetworks", responses=LIST_RESPONSES)
async def subnetworks(request: Request, model: str | None = None) -> SubnetworkList:
    """List the subnetworks of a model with their accuracy, cost, and the run latency predicted now; cheapest first."""
    front = front_of(request)
    served = front.serving.of(model)
    predicted_s = await front.engine.call("predicted_run_latency_s", generation=served.generation)
    known = {each["name"]: each for each in served.subnetworks}
    entries = [
        SubnetworkEntry(
            name=subnetwork.name,
            columns=list(subnetwork.columns),
            depth=subnetwork.depth,
            parameters=subnetwork.parameters,
            macs=subnetwork.macs,
            precision=known[subnetwork.name]["precision"],
            expected_accuracy=known[subnetwork.name]["expected_accuracy"],
            expected_accuracy_interval=known[subnetwork.name]["expected_accuracy_interval"],
            test_accuracy=known[subnetwork.name]["test_accuracy"],
            predicted_run_latency_ms=round(1e3 * predicted_s[subnetwork.name], 3),
        )
        for subnetwork in sorted(served.manifest.subnetworks, key=lambda each: each.macs)
    ]
    return SubnetworkList(
        models=list(front.serving.names),
        bundle=BundleName(**served.bundle_name),
        device=served.device,
        subnetworks=entries,
    )


@router.post("/admin/reload", responses=RELOAD_RESPONSES)
async def reload(request: Request, _: AdminKey, model: str | None = None) -> Reloaded:
    """Answer from the bundle that is in a model's folder now; reply once the one before has ended.

    ``front.access`` has looked at the key by then; it is named here for the documentation.
    """
    front = front_of(request)
    return Reloaded(**await front.engine.call("reload", model=front.serving.of(model).name))


@router.post("/admin/canary", responses=CANARY_RESPONSES)
async def canary(
    request: Request,
    _: AdminKey,
    share: Annotated[str, Query(description="A number from 0 to 1.")] = "",
    model: str | None = None,
) -> CanaryShare:
    """Let a model's canary answer this share of its requests from now on: 1 promotes it, 0 rolls it back."""
    serving = front_of(request).serving
    chosen, own = serving.canary_of(model), serving.of(model)
    chosen.set_share(parse_share(share))
    return CanaryShare(
        model=own.name,
        share=chosen.share,
        bundle=BundleName(**own.bundle_name),
        canary=BundleName(**chosen.served.bundle_name),
    )


@router.get("/health/live")
async def live() -> Health:
    """Answer while the process can."""
    return Health(status="live")


@router.get("/health/ready", responses=READY_RESPONSES)
async def ready(request: Request) -> Health:
    """Answer 200 while requests should be sent here, 503 while the server starts or stops."""
    check_ready(front_of(request))
    return Health(status="ready")


@router.get("/metrics", response_class=Response, responses=METRICS_RESPONSES)
async def metrics(request: Request) -> Response:
    """Give the metrics as Prometheus' text or OpenMetrics, and packed to a tenth or so, as the scraper takes them."""
    accept = request.headers.get("accept", "")
    found = await front_of(request).engine.call("metrics", accept=accept)
    headers = {"Vary": "Accept, Accept-Encoding"}
    body = found["body"].encode()
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = await asyncio.to_thread(gzip.compress, body, compresslevel=1)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type=found["content_type"])


@router.get(
    "/problems/{slug}",
    response_class=PlainTextResponse,
    responses=PROBLEM_PAGE_RESPONSES,
    openapi_extra=PROBLEM_PAGE,
)
async def problem_page(request: Request) -> str:
    """Explain a problem; the ``type`` of every problem leads here."""
    slug: str = request.path_params["slug"]
    problem = CATALOGUE.get(slug)
    if problem is None:
        raise NotFound(f"there is no problem {slug!r}; there are {', '.join(CATALOGUE)}")
    return f"{problem.status} {problem.title}\n\n{problem.__doc__}\n"
