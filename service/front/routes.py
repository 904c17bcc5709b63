"""The endpoints: they translate between HTTP and the parts, and decide nothing."""

from collections.abc import Collection
from hmac import compare_digest
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import PlainTextResponse, Response

from service.front.answering import AnswerStream, answer_once
from service.front.documentation import (
    CLASSIFY,
    CLASSIFY_RESPONSES,
    FEEDBACK,
    FEEDBACK_RESPONSES,
    PROBLEM_PAGE,
    PROBLEM_PAGE_RESPONSES,
    READY_RESPONSES,
    RELOAD_RESPONSES,
    STREAM,
    STREAM_RESPONSES,
)
from service.front.receiving import handle, service_of, serving_of
from service.observability.feedback import AnswerMemory, Kept, Rejection
from service.problems import (
    CATALOGUE,
    BodyTooLarge,
    EmptyBody,
    FeedbackLate,
    FeedbackRepeated,
    InvalidFeedback,
    NotFound,
    NotReady,
    Problem,
    ReloadUnderWay,
    Unauthorized,
    UnknownRequest,
)
from service.schemas import (
    Answer,
    BundleName,
    Health,
    Outcomes,
    Reloaded,
    Score,
    SubnetworkEntry,
    SubnetworkList,
    parse_feedback,
)

MAX_FEEDBACK_BYTES = 4096

router = APIRouter()


@router.post(
    "/classify",
    response_model=Answer | Outcomes,
    responses=CLASSIFY_RESPONSES,
    openapi_extra=CLASSIFY,
)
async def classify(request: Request) -> Response:
    """Give the most accurate answer that fits in the deadline, which counts from the arrival of the request."""
    response = await handle(request, answer_once, takes_several=True)
    assert response is not None
    return response


@router.post(
    "/classify/stream",
    response_class=Response,
    responses=STREAM_RESPONSES,
    openapi_extra=STREAM,
)
async def classify_stream(request: Request) -> Response:
    """Give a first answer at once, and better ones until the deadline; server-sent events, or NDJSON by ``Accept``."""
    return AnswerStream(request)


@router.post("/feedback", responses=FEEDBACK_RESPONSES, openapi_extra=FEEDBACK)
async def feedback(request: Request) -> Score:
    """Say what was on an image, to count whether its answer was right.

    The labels of an answer of a bundle that was replaced meanwhile say nothing of the one that answers now: they are
    compared, and not counted with its own.
    """
    service = service_of(request)
    bundle = serving_of(service).bundle
    try:
        body = await service.bodies.read(
            request, dict(request.scope["headers"]), MAX_FEEDBACK_BYTES
        )
        sent = parse_feedback(body)
        if service.answers.bundle_of(sent.request_id) in (None, bundle.digest):
            _check_label(sent.label, bundle.manifest.labels)
    except (BodyTooLarge, EmptyBody, InvalidFeedback):
        service.metrics.feedback.inc("invalid")
        raise
    taken = service.answers.take(sent.request_id, service.clock())
    if not isinstance(taken, Kept):
        service.metrics.feedback.inc(taken)
        raise _rejection(taken, sent.request_id, service.answers)
    is_right = sent.label == taken.label
    if taken.bundle == bundle.digest:
        service.metrics.label_came(taken.subnetwork, is_right)
    else:
        service.metrics.feedback.inc("replaced")
    return Score(
        request_id=sent.request_id,
        label=sent.label,
        answer=taken.label,
        subnetwork=taken.subnetwork,
        is_right=is_right,
    )


@router.get("/subnetworks", responses=READY_RESPONSES)
async def subnetworks(request: Request) -> SubnetworkList:
    """List the subnetworks with their accuracy, cost, and the run latency predicted now; cheapest first."""
    service = service_of(request)
    serving = serving_of(service)
    entries = [
        SubnetworkEntry(
            name=subnetwork.name,
            columns=list(subnetwork.columns),
            depth=subnetwork.depth,
            parameters=subnetwork.parameters,
            macs=subnetwork.macs,
            precision=each.precision,
            expected_accuracy=each.accuracy.estimate.value,
            expected_accuracy_interval=(each.accuracy.estimate.low, each.accuracy.estimate.high),
            test_accuracy=each.accuracy.test_value,
            predicted_run_latency_ms=round(1e3 * serving.latency.predict_s(subnetwork.name, 1), 3),
        )
        for each in sorted(serving.served, key=lambda each: each.subnetwork.macs)
        for subnetwork in (each.subnetwork,)
    ]
    return SubnetworkList(
        bundle=BundleName(**serving.bundle_name), device=serving.device.name, subnetworks=entries
    )


@router.post("/admin/reload", responses=RELOAD_RESPONSES)
async def reload(
    request: Request,
    sent: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> Reloaded:
    """Answer from the bundle that is in the bundle folder now; reply once the one before has ended."""
    service = service_of(request)
    key = service.settings.admin_key.get_secret_value()
    if not key:
        raise NotFound("ANYTIME_ADMIN_KEY is not set", path=request.url.path)
    if sent is None or not compare_digest(sent.credentials.encode("latin-1"), key.encode()):
        raise Unauthorized(
            "the Authorization header must be 'Bearer' and the value of ANYTIME_ADMIN_KEY",
            headers={"WWW-Authenticate": "Bearer"},
        )
    before = serving_of(service)
    if service.is_reloading:
        raise ReloadUnderWay("another reload has not ended yet", headers={"Retry-After": "1"})
    now = await service.reload()
    return Reloaded(bundle=BundleName(**now.bundle_name), before=BundleName(**before.bundle_name))


@router.get("/health/live")
async def live() -> Health:
    """Answer while the process can."""
    return Health(status="live")


@router.get("/health/ready", responses=READY_RESPONSES)
async def ready(request: Request) -> Health:
    """Answer 200 while requests should be sent here, 503 while the server starts or stops."""
    service = service_of(request)
    serving_of(service)
    if service.draining:
        raise NotReady("the server is stopping", headers={"Retry-After": "1"})
    return Health(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Give the metrics in Prometheus' text format."""
    return Response(service_of(request).metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


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


def _check_label(label: str, labels: Collection[str]) -> None:
    """Refuse a label that the bundle does not know."""
    if label not in labels:
        raise InvalidFeedback(f"{label!r} is no label of the bundle", allowed=", ".join(labels))


def _rejection(reason: Rejection, request_id: str, answers: AnswerMemory) -> Problem:
    """Return what the sender of a label that cannot be used is told."""
    match reason:
        case "unknown":
            return UnknownRequest(
                f"no answer {request_id!r} is kept here; the latest {answers.capacity} are"
            )
        case "repeated":
            return FeedbackRepeated(f"the answer {request_id!r} has its label already")
        case "late":
            return FeedbackLate(
                f"the answer {request_id!r} is older than {answers.window_s:g} s",
                limit=answers.window_s,
            )
