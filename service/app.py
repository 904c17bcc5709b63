"""Wiring: what the parts are, how they start, and how they end."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model.bundle import Bundle, read_bundle
from service import __version__
from service.agreement import Agreement
from service.aside import Aside
from service.dispatcher import Dispatcher
from service.feedback import AnswerMemory
from service.images import ImageDecoder
from service.latency import LatencyModel
from service.problems import (
    InternalError,
    MethodNotAllowed,
    NotFound,
    Problem,
    from_status,
    render,
)
from service.routes import classify, router
from service.runtime import (
    Device,
    Profile,
    RuntimeUnavailable,
    measure_run_latency,
    open_device,
    warm_up_batch_sizes,
)
from service.scheduler import Candidate, Scheduler
from service.schemas import QueryParser
from service.settings import Settings
from service.telemetry import Metrics, RequestLog, open_log


@dataclass(frozen=True, slots=True)
class Serving:
    """A bundle at work: warmed up, with everything that an answer from it takes."""

    bundle: Bundle
    device: Device
    latency: LatencyModel
    dispatcher: Dispatcher
    decoder: ImageDecoder
    parse_query: QueryParser
    expected_accuracy: dict[str, float]
    bundle_name: dict[str, str]
    agreement: Agreement | None

    def close(self) -> None:
        """End its threads."""
        if self.agreement is not None:
            self.agreement.close()
        self.dispatcher.close()
        self.decoder.close()


class Service:
    """What the endpoints share.

    Attributes:
        serving: what answers; None until it is warm.
        draining: the server is about to stop, and still answers what reaches it.
        failure: why start-up failed, if it did.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bundle = read_bundle(settings.bundle_dir)
        self.metrics = Metrics(CollectorRegistry(), version=__version__)
        self.metrics.ready.set_function(lambda: float(self.is_ready))
        self.log = open_log()
        self.log_request = RequestLog(self.log, settings.log_sample)
        self.answers = AnswerMemory(
            capacity=settings.feedback_answers, window_s=settings.feedback_window_s
        )
        self.clock = time.monotonic
        self.serving: Serving | None = None
        self.draining = False
        self.failure: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.serving is not None and not self.draining

    async def start(self) -> None:
        """Load the bundle, warm up, and become ready.

        Raises:
            RuntimeUnavailable: the device or a graph cannot be used.
            ValueError: there is no such policy.
        """
        started_at = self.clock()
        device, profile = await asyncio.to_thread(self._warm_up)
        self.serving = self._serve(device, profile)
        manifest = self.bundle.manifest
        gc.collect()
        gc.freeze()  # what start-up made stays: collecting it again would stall a request for tens of ms
        self.log.info(
            "ready",
            bundle=manifest.name,
            device=device.name,
            subnetworks=len(manifest.subnetworks),
            warm_up_s=round(self.clock() - started_at, 3),
        )

    def stop(self) -> None:
        """End what ``start`` began, after the last request was answered."""
        if self.serving is not None:
            self.serving.close()

    def _warm_up(self) -> tuple[Device, Profile]:
        settings, manifest = self.settings, self.bundle.manifest
        device = open_device(self.bundle, device=settings.device, threads=settings.threads)
        size = manifest.architecture.image_size
        profile = measure_run_latency(
            device,
            [subnetwork.name for subnetwork in manifest.subnetworks],
            warm_up_batch_sizes(settings.max_batch),
            image=np.zeros((size, size, 3), np.uint8),
            budget_s=settings.warm_up_s,
            clock=self.clock,
        )
        return device, profile

    def _serve(self, device: Device, profile: Profile) -> Serving:
        settings, manifest = self.settings, self.bundle.manifest
        accuracy = {each.name: each.accuracy.validation.value for each in manifest.subnetworks}
        latency = LatencyModel(profile)
        scheduler = Scheduler(
            [Candidate(name, value) for name, value in accuracy.items()],
            latency,
            policy=settings.policy,
            max_queue=settings.max_queue,
            max_batch=settings.max_batch,
        )
        bundle_name = {"name": manifest.name, "digest": self.bundle.digest}
        self.metrics.show(
            bundle=bundle_name,
            accuracy=accuracy,
            labels=manifest.labels,
            device=device.name,
            predict_s=lambda name: latency.predict_s(name, 1),
            slowdown=latency.slowdown,
            queue_depth=lambda: len(scheduler),
        )
        dispatcher = Dispatcher(
            [device.run],
            scheduler,
            latency,
            metrics=self.metrics,
            clock=self.clock,
            on_failure=lambda error: self.log.error("run_failed", exc_info=error),
            shares_cores=device.shares_cores,
        )
        return Serving(
            bundle=self.bundle,
            device=device,
            latency=latency,
            dispatcher=dispatcher,
            decoder=ImageDecoder(
                size=manifest.architecture.image_size,
                max_pixels=settings.max_pixels,
                max_waiting=settings.max_queue,
            ),
            parse_query=QueryParser(
                settings, subnetworks=list(accuracy), classes=len(manifest.labels)
            ),
            expected_accuracy=accuracy,
            bundle_name=bundle_name,
            agreement=self._compare(max(accuracy, key=accuracy.__getitem__), dispatcher),
        )

    def _compare(self, best: str, dispatcher: Dispatcher) -> Agreement | None:
        """Return what compares a share of the answers with those of the best subnetwork, if any is."""
        if not self.settings.agreement_sample:
            return None
        return Agreement(
            Aside(self.bundle.folder, best),
            best=best,
            share=self.settings.agreement_sample,
            is_idle=lambda: dispatcher.is_idle,
            record=self.metrics.compared,
            on_failure=lambda error: self.log.error("comparison_failed", exc_info=error),
        )


class App(FastAPI):
    """FastAPI, but for the way in to ``/classify``: its layers cost as much as a run of a shallow subnetwork."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's lifespan."""
        if scope["type"] == "http" and scope["path"] == "/classify" and scope["method"] == "POST":
            scope["app"] = self
            response = await classify(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, *, on_failure: Callable[[], None] = lambda: None) -> App:
    """Return the application; it becomes ready some time after its start.

    Args:
        settings: every knob.
        on_failure: is called if it cannot become ready; ``app.state.service.failure`` says why.

    Raises:
        BundleError: the bundle cannot be used.
    """
    service = Service(settings)

    async def start() -> None:
        try:
            await service.start()
        except (RuntimeUnavailable, ValueError) as error:
            service.failure = str(error)
            on_failure()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(start())
        yield
        await starting
        service.stop()

    app = App(
        title="Anytime inference",
        summary="The most accurate answer that fits in the caller's deadline.",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(Problem, _render_problem)
    app.add_exception_handler(HTTPException, _render_http_error)
    app.add_exception_handler(Exception, _render_bug)
    return app


async def _render_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return render(error)


async def _render_http_error(request: Request, error: Exception) -> Response:
    """Say it as a problem when the framework refuses: unknown routes, wrong methods, and the rest."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return render(NotFound(f"nothing is served at {path}; see /docs", path=path))
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            detail = f"{path} does not take {request.method}; it takes {allowed}"
            return render(MethodNotAllowed(detail, headers=error.headers, method=request.method))
        case status:
            return from_status(status, error.detail, error.headers)


async def _render_bug(request: Request, error: Exception) -> Response:
    """Tell the client nothing of an unforeseen exception; the framework logs its trace."""
    return render(InternalError("the server failed to handle the request"))
