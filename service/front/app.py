"""Wiring: what the parts are, how they start, and how they end."""

import asyncio
import ctypes
import gc
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from model.bundle import Bundle, BundleError, read_bundle
from service import __version__
from service.engine.serving import UNUSABLE, Serving, Shared, ShedEarly, open_serving
from service.engine.worker import Worker
from service.front.bodies import Bodies
from service.front.connections import Connections
from service.front.page import add_page
from service.front.routes import classify, classify_stream, router
from service.observability.feedback import AnswerMemory
from service.observability.telemetry import Metrics, Outcome, ReloadOutcome, RequestLog
from service.problems import (
    BundleUnusable,
    InternalError,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Problem,
    from_status,
    render,
)
from service.scheduling.arrivals import Arrivals
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from service.observability.tracing import Tracer

# Of the device's time, what the warm-up of the next bundle takes from requests: the warm-up lasts ten times
# ANYTIME_WARM_UP_S, and a request in ten waits for one of its runs.
RELOAD_SHARE = 0.1

SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Service:
    """What the endpoints share.

    Attributes:
        serving: what answers; None until it is warm.
        draining: the server is about to stop, and still answers what reaches it.
        failure: why start-up failed, if it did.
        reload_wanted: set it to reload once start-up, or the reload under way, has ended.
    """

    def __init__(self, settings: Settings, log: FilteringBoundLogger) -> None:
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry(), version=__version__)
        self.metrics.ready.set_function(lambda: float(self.is_ready))
        self.log = log
        self.log_request = RequestLog(self.log, settings.log_sample)
        self.answers = AnswerMemory(
            capacity=settings.feedback_answers, window_s=settings.feedback_window_s
        )
        self.clock = time.monotonic
        self.arrivals = Arrivals()
        self.tracer = _open_tracer(settings, self.clock)
        self.ids = Random()  # the system's own generator lets go of the interpreter for each number
        self.serving: Serving | None = None
        self.draining = False
        self.failure: str | None = None
        self.reload_wanted = asyncio.Event()
        self.connections = Connections(settings, self.metrics)
        self.bodies = Bodies(
            settings.read_body_s, on_slow=lambda: self.connections.ended("slow_body")
        )
        self._reloading = asyncio.Lock()
        self._at_work: list[Serving] = []  # while one is replaced, both
        self._worker = Worker()

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.serving is not None and not self.draining

    @property
    def is_reloading(self) -> bool:
        """Whether a reload is under way."""
        return self._reloading.locked()

    def request_id(self, sent: bytes) -> str:
        """Return the client's own id if it is fit to be written to headers and logs, else a new one."""
        return (
            sent.decode()
            if SANE_REQUEST_ID.fullmatch(sent)
            else f"{self.ids.getrandbits(128):032x}"
        )

    def ended(
        self, outcome: Outcome, request_id: str, arrived_at: float, problem: Problem | None = None
    ) -> None:
        """Account for a request that got no answer."""
        self.metrics.request_ended(outcome)
        self.log_request(
            outcome,
            lambda: {
                "request_id": request_id,
                "latency_ms": round(1e3 * (self.clock() - arrived_at), 3),
                **({"problem": problem.slug(), "detail": problem.detail} if problem else {}),
            },
        )

    def shed_early(self, arrived_at: float, query_string: bytes) -> ShedEarly | None:
        """Say why a request is refused by its head, if it is."""
        if self.serving is None:
            return None
        return self.serving.shed_early(arrived_at, query_string)

    def count_shed(
        self, shed: ShedEarly, request_id: str, arrived_at: float, cost_s: float
    ) -> None:
        """Account for a request that ``shed_early`` had refused, and what that cost this thread in seconds."""
        assert self.serving is not None
        self.ended(shed.problem.outcome, request_id, arrived_at, shed.problem)
        self.serving.dispatcher.count_shed(shed.deadline_s, cost_s)

    async def start(self, bundle: Bundle) -> None:
        """Warm the bundle up and become ready.

        Raises:
            BundleError, RuntimeUnavailable, ValueError: it cannot be served.
            NotReady: the server was told to stop.
        """
        started_at = self.clock()
        serving = await self._open(bundle)
        gc.collect()
        gc.freeze()  # what start-up made stays: collecting it again would stall a request for tens of ms
        self.log.info(
            "ready",
            bundle=bundle.manifest.name,
            device=serving.device.name,
            subnetworks=len(bundle.manifest.subnetworks),
            warm_up_s=round(self.clock() - started_at, 3),
        )

    async def reload(self) -> Serving:
        """Answer from the bundle that is in its folder now, and return it, once the one before has ended.

        Until then, and if the new one cannot be used, the one before answers.

        Raises:
            BundleUnusable: says why.
            NotReady: the server was told to stop.
        """
        async with self._reloading:
            started_at = self.clock()
            old = self.serving
            assert old is not None
            try:
                bundle = await asyncio.to_thread(read_current_bundle, self.settings)
                if bundle.digest == old.bundle.digest:
                    self._reloaded("unchanged", bundle=old.bundle_name)
                    return old
                new = await self._open(bundle)
            except NotReady:  # it is to stop
                raise
            except Exception as error:  # whatever a bundle may do, the one before goes on
                reason = describe(error)
                self._reloaded("failed", bundle=old.bundle_name, reason=reason)
                raise BundleUnusable(reason, bundle=old.bundle_name) from error
            await old.drain(self.settings.drain_s)
            self._at_work.remove(old)
            await asyncio.to_thread(old.close)
            await self._worker.call(return_memory)  # behind the end of the old sessions
            self._reloaded(
                "replaced",
                bundle=new.bundle_name,
                before=old.bundle_name,
                reload_s=round(self.clock() - started_at, 3),
            )
            return new

    async def reload_when_wanted(self) -> None:
        """Reload each time that it is wanted; what went wrong is in the log."""
        while True:
            await self.reload_wanted.wait()
            self.reload_wanted.clear()
            with suppress(Problem):
                await self.reload()

    def stop(self) -> None:
        """End what ``start`` and ``reload`` began, after the last request was answered."""
        for serving in self._at_work:
            serving.close()
        self._worker.close()
        if self.tracer is not None:
            self.tracer.close()

    async def _open(self, bundle: Bundle) -> Serving:
        """Warm a bundle up, and answer new requests from it."""
        shared = Shared(
            self.settings, self._worker, self.metrics, self.log, self.clock, self.arrivals
        )
        new = await open_serving(bundle, shared, rest=self._rest)
        if self.serving is None and new.device.gpu is not None:
            self._show_memory(new.device.gpu)
        if self.serving is not None:
            new.latency.observe_reply(self.serving.latency.reply_s)
        self._at_work.append(new)
        self.serving = new
        self.metrics.show(
            bundle=new.bundle_name,
            accuracy=new.expected_accuracy,
            labels=bundle.manifest.labels,
            device=new.device.name,
            predict_s=lambda name: new.latency.predict_s(name, 1),
            slowdown=new.latency.slowdown,
            queue_depth=lambda: sum(len(each.scheduler) for each in self._at_work),
        )
        return new

    def _show_memory(self, gpu: int) -> None:
        """Show the memory of a GPU, if its driver tells."""
        try:  # its packages come with the extra ``gpu``
            from service.observability.gpu import memory_reader
        except ImportError as error:
            self.log.warning(
                "no_gpu_memory", reason=f"{error}; install nvidia-ml-py and cuda-bindings"
            )
            return
        read = memory_reader(gpu)
        if read is not None:
            self.metrics.gpu_memory.labels("used").set_function(lambda: read().used)
            self.metrics.gpu_memory.labels("total").set_function(lambda: read().total)

    async def _rest(self, run_s: float) -> None:
        """Leave the device to requests after a run of the warm-up."""
        if self.draining:
            raise NotReady("the server is stopping", headers={"Retry-After": "1"})
        if self.serving is not None:
            await asyncio.sleep(run_s * (1 / RELOAD_SHARE - 1))

    def _reloaded(self, outcome: ReloadOutcome, **fields: Any) -> None:
        """Account for a reload."""
        self.metrics.reloads.inc(outcome)
        log = self.log.error if outcome == "failed" else self.log.info
        log("reload", outcome=outcome, **fields)


def return_memory() -> None:
    """Give memory that is free back to the system; glibc keeps it, some 20 MiB more with each reload."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _open_tracer(settings: Settings, clock: Callable[[], float]) -> "Tracer | None":
    """Return what records traces, if they are wanted.

    Raises:
        SettingsError: they are, and cannot be made.
    """
    if not settings.trace_sample:
        return None
    try:
        from service.observability.tracing import Tracer
    except ImportError as error:
        raise SettingsError(
            f"ANYTIME_TRACE_SAMPLE is {settings.trace_sample:g}, but OpenTelemetry is not installed: "
            "pip install 'anytime-inference[traces]', or set it to 0"
        ) from error
    return Tracer(settings.trace_sample, version=__version__, clock=clock)


def read_current_bundle(settings: Settings) -> Bundle:
    """Read the bundle that the folder holds, or leads to, at this moment."""
    try:
        folder = settings.bundle_dir.resolve()  # a link may lead elsewhere before all is loaded
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{settings.bundle_dir}: {error}") from error
    return read_bundle(folder, keys=settings.bundle_keys.split())


def describe(error: Exception) -> str:
    """Return why a bundle cannot be served; of an error that was not foreseen, its kind too."""
    return str(error) if isinstance(error, UNUSABLE) else f"{type(error).__name__}: {error}"


DIRECT = {"/classify": classify, "/classify/stream": classify_stream}


class App(FastAPI):
    """FastAPI, but for the way in to what classifies: its layers cost as much as a run of a shallow subnetwork."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's lifespan."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the connection leaves the body away
        direct = DIRECT.get(scope["path"]) if scope["type"] == "http" else None
        if direct is not None and scope["method"] == "POST":
            scope["app"] = self
            response = await direct(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings, log: FilteringBoundLogger, *, on_failure: Callable[[], None] = lambda: None
) -> App:
    """Return the application; it becomes ready some time after its start.

    Args:
        settings: every knob.
        log: takes events; nobody ever waits for it.
        on_failure: is called if it cannot become ready; ``app.state.service.failure`` says why.

    Raises:
        BundleError: the bundle cannot be used.
        SettingsError: traces are wanted, and OpenTelemetry is not installed.
    """
    bundle = read_current_bundle(settings)
    service = Service(settings, log)

    async def run() -> None:
        try:
            await service.start(bundle)
        except NotReady:  # it is to stop
            raise
        except Exception as error:
            service.failure = describe(error)
            on_failure()
        else:
            await service.reload_when_wanted()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError, NotReady):
            await running
        service.stop()

    app = App(
        title="Anytime inference",
        summary="The most accurate answer that fits in the caller's deadline.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lead to whatever host the client names
    )
    app.state.service = service
    app.include_router(router)
    add_page(app, settings)
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
