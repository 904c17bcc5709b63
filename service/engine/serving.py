"""One bundle at work: from its files, over its warm-up, to its last request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import numpy as np
import structlog

from model.bundle import Bundle, BundleError, check_unchanged
from service.engine.dispatcher import Dispatcher
from service.engine.precision import Profile, Served, choose_precisions
from service.engine.runtime import (
    Device,
    RuntimeUnavailable,
    measure_run_latency,
    open_device,
    padded,
    warm_up_batch_sizes,
)
from service.engine.worker import Worker
from service.front.images import ImageDecoder
from service.observability.agreement import Agreement
from service.observability.aside import Aside
from service.observability.telemetry import Metrics
from service.problems import InvalidParameter, NotReady, Overloaded, Problem, problem_of
from service.scheduling.arrivals import Arrivals
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Candidate
from service.scheduling.scheduler import Scheduler
from service.schemas import QueryParser
from service.settings import Settings

NETWORK_MARGIN_S = 0.0002  # between a caller on this machine and the server; a longer way is the caller's to allow for

LAST_REPLIES_S = 1.0  # for the answers that a drain gives out at its end
CROWD = 4  # requests that were read and wait: from then on the next may be refused by its head
SHED = Overloaded(
    "more requests are waiting to be read than can be answered in time",
    headers={"Retry-After": "1"},
)

UNUSABLE = (BundleError, RuntimeUnavailable, ValueError)  # what ``open_serving`` may raise


@dataclass(frozen=True, slots=True)
class Shared:
    """What every bundle is served with, one after the other."""

    settings: Settings
    worker: Worker
    metrics: Metrics
    log: structlog.typing.FilteringBoundLogger
    clock: Callable[[], float]
    arrivals: Arrivals


@dataclass(frozen=True, slots=True)
class ShedEarly:
    """The refusal of a request of which the head alone was read."""

    problem: Problem
    deadline_s: float


class Serving:
    """A bundle at work, with everything that an answer from it takes.

    A request enters it (``with serving:``) before its image is decoded and leaves it with its answer: one bundle
    decodes it, runs it and names its labels, and a bundle that was replaced ends after its last request.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        served: Sequence[Served],
        profile: Profile,
        shared: Shared,
        aside: Aside | None,
    ) -> None:
        settings, manifest = shared.settings, bundle.manifest
        self.bundle = bundle
        self.bundle_name = {"name": manifest.name, "digest": bundle.digest}
        self.served = served
        self.expected_accuracy = {
            each.subnetwork.name: each.accuracy.estimate.value for each in served
        }
        self.device = device
        self.latency = LatencyModel(profile, network_margin_s=NETWORK_MARGIN_S)
        self.scheduler = Scheduler(
            [Candidate(name, value) for name, value in self.expected_accuracy.items()],
            self.latency,
            policy=settings.policy,
            max_queue=settings.max_queue,
            max_batch=settings.max_batch,
            max_lateness=settings.max_lateness,
            insure=settings.insurance,
        )
        self.dispatcher = Dispatcher(
            [device.run],
            self.scheduler,
            self.latency,
            workers=[shared.worker],
            metrics=shared.metrics,
            clock=shared.clock,
            on_failure=lambda error: shared.log.error("run_failed", exc_info=error),
            on_wake=shared.arrivals.woke,
            shares_cores=device.shares_cores,
        )
        self.decoder = ImageDecoder(
            preprocessing=manifest.preprocessing,
            max_pixels=settings.max_pixels,
            max_waiting=settings.max_queue,
            clock=shared.clock,
            on_wake=shared.arrivals.woke,
        )
        self.parse_query = QueryParser(
            settings, subnetworks=list(self.expected_accuracy), classes=len(manifest.labels)
        )
        self.agreement = self._compare(aside, shared) if aside is not None else None
        self._worker = shared.worker
        self._clock = shared.clock
        self._arrivals = shared.arrivals
        self._requests: set[asyncio.Task[Any] | None] = set()
        self._left_at = -inf
        self._empty = asyncio.Event()
        self._empty.set()

    def __enter__(self) -> None:
        """Let a request in."""
        self._requests.add(asyncio.current_task())
        self._empty.clear()

    def __exit__(self, *raised: object) -> None:
        """Let it out."""
        self._requests.remove(asyncio.current_task())
        self._left_at = self._clock()
        if not self._requests:
            self._empty.set()

    def shed_early(self, arrived_at: float, query_string: bytes) -> ShedEarly | None:
        """Say why a request is refused by its head, if it is: those read before it leave it no time, or no place."""
        unread = self._arrivals.waiting
        if unread < CROWD:
            return None
        try:
            query = self.parse_query(query_string)
        except InvalidParameter:  # told in its turn
            return None
        now, deadline_s, admission = (
            self._clock(),
            query.deadline_ms / 1e3,
            self.scheduler.admission,
        )
        deadline_at = arrived_at + deadline_s
        if admission.would_be_full(deadline_at, unread):
            return ShedEarly(problem_of(admission.queue_full(unread, now)), deadline_s)
        late_until = admission.late_until(arrived_at, deadline_s, query.on_miss, query.subnetwork)
        if admission.would_miss_deadline(deadline_at, late_until, unread, now):
            return ShedEarly(SHED, deadline_s)
        return None

    def is_alone_since(self, arrived_at: float) -> bool:
        """Say whether the one request that is in it has shared the server with no other since it arrived."""
        return (
            len(self._requests) == 1 and not self._arrivals.waiting and self._left_at <= arrived_at
        )

    async def drain(self, within_s: float) -> None:
        """Wait until no request is in it; past that time give out what answers there are, and end what is left.

        A deadline may be a day, and so long may a client take to read a stream.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), within_s)
        self.dispatcher.give_up(NotReady("the bundle was replaced", headers={"Retry-After": "1"}))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), LAST_REPLIES_S)
        for task in self._requests:
            assert task is not None
            task.cancel()
        await self._empty.wait()

    def close(self) -> None:
        """Give its threads and its memory back, after the runs that it has begun for clients that left."""
        if self.agreement is not None:
            self.agreement.close()
        self.decoder.close()
        self.dispatcher.close()
        self._worker.start(self.device.close)

    def _compare(self, aside: Aside, shared: Shared) -> Agreement:
        """Return what compares a share of the answers with those of the best subnetwork."""
        return Agreement(
            aside,
            best=aside.subnetwork,
            share=shared.settings.agreement_sample,
            is_idle=lambda: self.dispatcher.is_idle,
            record=shared.metrics.compared,
            on_failure=lambda error: shared.log.error("comparison_failed", exc_info=error),
        )


async def open_serving(
    bundle: Bundle, shared: Shared, *, rest: Callable[[float], Awaitable[None]]
) -> Serving:
    """Load a bundle and warm it up.

    Args:
        bundle: as it was read.
        shared: its worker runs the warm-up too, so that runs for requests and runs of the warm-up take turns.
        rest: is awaited after each run of the warm-up, with its run latency; may raise to give up.

    Raises:
        BundleError: the bundle changed meanwhile.
        RuntimeUnavailable: the device or a graph cannot be used.
        ValueError: there is no such policy, or its subnetwork is not in the bundle.
    """
    settings, manifest = shared.settings, bundle.manifest
    undo = ExitStack()
    aside: Aside | None = None
    if settings.agreement_sample:  # first of all: it is to be there before the first request
        best = max(manifest.subnetworks, key=lambda each: each.accuracy.estimate.value)
        aside = Aside(bundle, best.name)
        undo.callback(aside.close)
    with undo:
        serving = await _warm_up(bundle, shared, aside, rest)
        undo.pop_all()
    return serving


async def _warm_up(
    bundle: Bundle, shared: Shared, aside: Aside | None, rest: Callable[[float], Awaitable[None]]
) -> Serving:
    """Load every graph, measure run latencies, and do what only the first request would do."""
    settings = shared.settings
    sizes = warm_up_batch_sizes(settings.max_batch)
    device = await asyncio.to_thread(_load, bundle, shared, sizes)

    async def time_run(name: str, size: int) -> float:
        run = partial(_time_run, bundle, device, name, size, shared.clock)
        run_s = await shared.worker.call(run)
        await rest(run_s)
        return run_s

    measured = await measure_run_latency(time_run, device.names, sizes, budget_s=settings.warm_up_s)
    served = choose_precisions(bundle.manifest.subnetworks, measured)
    chosen = {each.subnetwork.name: each.run_name for each in served}
    device.keep(chosen)
    profile = {name: measured[run_name] for name, run_name in chosen.items()}
    if device.gpu is not None:
        profile = padded(profile)
    serving = Serving(bundle, device, served, profile, shared, aside)
    await serving.decoder.warm_up()
    return serving


def _load(bundle: Bundle, shared: Shared, batch_sizes: Sequence[int]) -> Device:
    """Open every graph, and see to it that they are those of the manifest."""
    device = open_device(
        bundle,
        device=shared.settings.device,
        threads=shared.settings.threads,
        batch_sizes=batch_sizes,
        engine_dir=shared.settings.engine_dir,
        warn=lambda reason: shared.log.warning("slower_device", reason=reason),
    )
    check_unchanged(bundle)
    return device


def _time_run(
    bundle: Bundle, device: Device, name: str, size: int, clock: Callable[[], float]
) -> float:
    """Run a batch of blank images; return how long it took.

    Raises:
        RuntimeUnavailable: the graph does not run, or does not fit the manifest.
    """
    side, classes = bundle.manifest.preprocessing.size, len(bundle.manifest.labels)
    batch = [np.zeros((side, side, 3), np.uint8)] * size
    started_at = clock()
    try:
        probabilities = device.run(name, batch)
    except Exception as error:  # ONNX Runtime has no common base of its errors
        reason = str(error).splitlines()[0]
        raise RuntimeUnavailable(f"{bundle.folder}: {name} does not run: {reason}") from error
    run_s = clock() - started_at
    if probabilities.shape != (size, classes):
        raise RuntimeUnavailable(
            f"{bundle.folder}: {name} gives {probabilities.shape} for {size} images, "
            f"the manifest lists {classes} labels"
        )
    return run_s
