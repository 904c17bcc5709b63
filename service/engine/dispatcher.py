"""Carries out the scheduler's decisions in real time: one future a request.

Everything here but the runs happens on the event loop, and a run so short that handing it to another thread would take
as long happens there too, if nothing else waits. Every future is resolved on every path: answered, expired,
failed with its run, or cancelled by a client that left.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import numpy as np
from numpy.typing import NDArray

from model.images import Pixels
from service.engine.timer import Timer
from service.engine.worker import Worker
from service.observability.telemetry import Metrics
from service.problems import Expired, InternalError, Problem, problem_of
from service.scheduling.latency import LatencyModel
from service.scheduling.requests import (
    Deliver,
    Displace,
    Expire,
    OnMiss,
    Refine,
    Request,
    Run,
    Wait,
)
from service.scheduling.scheduler import Scheduler

RunBatch = Callable[[str, Sequence[Pixels]], NDArray[np.float32]]

OVERHEAD_REQUESTS = 16  # reading the thread's CPU clock costs a microsecond
OVERHEAD_WINDOW_S = (
    0.5  # where they take longer to come, scrapes and probes cost as much as they do
)
SHORT_RUN_S = 0.0003  # about what decoding an image takes the loop; the way to a thread and back takes half of it


@dataclass(slots=True)
class Job:
    """What a request carries through the scheduler."""

    pixels: Pixels
    future: "asyncio.Future[Answered]"  # its last answer
    stop_at_confidence: float
    on_answer: "Callable[[Answered], None] | None"  # is given those before the last
    best: "Answered | None" = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome of a request that was run.

    Attributes:
        probabilities: (classes,).
        subnetwork: what answered.
        batch_size: requests in its run.
        predicted_s: the run latency that the choice of subnetwork counted with.
        started_at: when its run started.
        finished_at: when its run ended.
        given_at: when it became the answer: then, or when a better one was waited for no longer.
        before: the answer that this one is better than, if there was one.
        is_first_reply: whether no other of its run is replied to before.
    """

    probabilities: NDArray[np.float32]
    subnetwork: str
    batch_size: int
    predicted_s: float
    started_at: float
    finished_at: float
    given_at: float
    before: "Answered | None" = None
    is_first_reply: bool = True

    @property
    def runs(self) -> "tuple[Answered, ...]":
        """The answers that led to this one, first to last."""
        return (*(self.before.runs if self.before is not None else ()), self)


class Dispatcher:
    """Runs requests on devices as the scheduler decides. To be made and used on one event loop.

    Args:
        devices: what runs a batch in a subnetwork on each device, in the scheduler's order; gives (N, classes).
        scheduler: decides.
        latency: is told how long runs took.
        workers: the thread of each device, in the same order; others may use it too.
        metrics: is told of every run.
        clock: seconds, monotonic; that of the requests' ``arrived_at``.
        on_failure: is given the exception of a run, or of the choice of one, that failed.
        on_wake: is told each time that a thread has called the event loop.
        shares_cores: whether the event loop takes its time from the runs.
    """

    def __init__(
        self,
        devices: Sequence[RunBatch],
        scheduler: Scheduler,
        latency: LatencyModel,
        *,
        workers: Sequence[Worker],
        metrics: Metrics,
        clock: Callable[[], float],
        on_failure: Callable[[Exception], None],
        on_wake: Callable[[float], None],
        shares_cores: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler
        self._latency = latency
        self._metrics = metrics
        self._clock = clock
        self._on_failure = on_failure
        self._on_wake = on_wake
        self._shares_cores = shares_cores
        self._devices = devices
        self._workers = workers
        self._timer = Timer(self._act, clock)
        self._running = 0
        self._has_given_up = False
        self._came = self._shed = 0
        self._shed_s = 0.0
        self._cpu_s, self._counting_since = time.thread_time(), clock()

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return not self._running and not len(self._scheduler) and not self._scheduler.refinable

    async def classify(
        self,
        pixels: Pixels,
        *,
        arrived_at: float,
        deadline_at: float,
        on_miss: OnMiss,
        subnetwork: str | None,
        refine: Refine = "none",
        stop_at_confidence: float = inf,
        on_answer: Callable[[Answered], None] | None = None,
        was_alone: bool = False,
    ) -> Answered:
        """Return the best answer to one image; cancelling the call takes it out of the queue.

        Args:
            pixels: uint8 (H, W, 3).
            arrived_at, deadline_at, on_miss, subnetwork, refine: of the scheduler's request.
            stop_at_confidence: an answer that is as sure as this is the last.
            on_answer: is given each answer that another may follow, at once.
            was_alone: of ``admit``.

        Raises:
            DeadlineImpossible, Overloaded, Expired, InternalError: there is no answer.
        """
        if subnetwork is not None:
            refine = "none"  # there is no other to go on to
        self._came += 1
        job = Job(pixels, self._loop.create_future(), stop_at_confidence, on_answer)
        request = Request(arrived_at, deadline_at, on_miss, subnetwork, refine, job)
        shed = self._scheduler.admit(request, self._clock(), was_alone=was_alone)
        if shed is not None:
            raise problem_of(shed)
        self._act()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._scheduler.cancel(request)
            raise

    def check_before_decode(
        self,
        *,
        arrived_at: float,
        deadline_at: float,
        on_miss: OnMiss,
        subnetwork: str | None,
        was_alone: bool,
    ) -> None:
        """Refuse a request whose image is not decoded yet, if it is lost already.

        Args:
            arrived_at, deadline_at, on_miss, subnetwork, was_alone: of ``classify``.

        Raises:
            DeadlineImpossible, Overloaded: it is.
        """
        request = Request(arrived_at, deadline_at, on_miss, subnetwork)
        shed = self._scheduler.admission.check_before_decode(
            request, self._clock(), was_alone=was_alone
        )
        if shed is not None:
            self._came += 1
            raise problem_of(shed)

    def count_shed(self, deadline_s: float, cost_s: float) -> None:
        """Count an arrival that was shed before it came here, and what that cost this thread."""
        self._shed += 1
        self._shed_s += cost_s
        self._scheduler.admission.count_shed(self._clock(), deadline_s)

    def give_up(self, problem: Problem) -> None:
        """Begin no more runs: give requests the answers that they have or get now, and those without one the reason."""
        self._has_given_up = True
        for request in self._scheduler.clear():
            self._fail(request, problem)

    def close(self) -> None:
        """Set no more timers, after the last request."""
        self._timer.close()

    def _act(self) -> None:
        """Carry out the scheduler's actions until it waits."""
        while True:
            now = self._clock()
            try:
                action = self._scheduler.next_action(now)
            except Exception as error:
                self._on_failure(error)
                for request in self._scheduler.clear():
                    self._fail(request, InternalError("the choice of a run failed"))
                return
            match action:
                case Run() as run:
                    if self._is_short(run):
                        self._run_here(run)
                    else:
                        self._running += 1
                        self._workers[run.device].start(partial(self._run, run))
                case Expire(requests):
                    self._expire(requests)
                case Displace(requests, shed):
                    for request in requests:
                        self._fail(request, problem_of(shed))
                case Deliver(requests):
                    for request in requests:
                        self._deliver(request)
                case Wait(until):
                    self._timer.set(until)
                    return

    def _expire(self, requests: Sequence[Request]) -> None:
        for request in requests:
            allowed_ms = 1e3 * (request.late_until - request.arrived_at)
            problem = Expired(f"no run could end within {allowed_ms:g} ms of the arrival")
            self._fail(request, problem)

    def _is_short(self, run: Run) -> bool:
        """Whether to run it here: on shared cores the loop could do nothing else meanwhile anyway.

        Not while the next bundle is warmed up on the device's thread: the two would slow each other, and its profile
        would say for as long as it serves what was true for a moment.
        """
        is_short = run.predicted_s < SHORT_RUN_S and not len(self._scheduler)
        return self._shares_cores and is_short and not self._workers[run.device].is_called

    def _run_here(self, run: Run) -> None:
        """Run a batch on the event loop; its time is no cost outside a run."""
        outcome = self._outcome_of(run)
        if isinstance(outcome, _Finished):
            self._cpu_s += outcome.finished_at - outcome.started_at
        self._conclude(run, outcome)

    def _outcome_of(self, run: Run) -> "_Finished | _Failed":
        """Run a batch in the calling thread."""
        started_at = self._clock()
        try:
            batch = [request.payload.pixels for request in run.batch]
            probabilities = self._devices[run.device](run.subnetwork, batch)
            if len(probabilities) != len(batch):
                raise RuntimeError(f"{len(batch)} images gave {len(probabilities)} answers")
        except Exception as error:
            return _Failed(error)
        return _Finished(probabilities, started_at, self._clock())

    def _run(self, run: Run) -> None:
        """Run a batch on the thread of its device, and tell the event loop."""
        outcome = self._outcome_of(run)
        self._loop.call_soon_threadsafe(self._finish, run, outcome)

    def _finish(self, run: Run, outcome: "_Finished | _Failed") -> None:
        self._running -= 1
        self._on_wake(self._clock())
        self._conclude(run, outcome)
        self._act()

    def _conclude(self, run: Run, outcome: "_Finished | _Failed") -> None:
        """Learn from a run that ended, and resolve its requests; their replies are written later."""
        self._scheduler.finished(run, self._clock())
        match outcome:
            case _Finished(probabilities, started_at, finished_at):
                size, run_s = len(run.batch), finished_at - started_at
                self._latency.observe(run.subnetwork, size, run_s, run.device)
                if self._shares_cores:
                    self._account()
                self._metrics.run_ended(
                    subnetwork=run.subnetwork,
                    batch_size=size,
                    run_latency_s=run_s,
                    predicted_s=run.predicted_s,
                )
                for place, (request, row) in enumerate(zip(run.batch, probabilities, strict=True)):
                    is_waited_for = not request.payload.future.done()
                    if request.answered_by is not None:
                        self._metrics.refined(run.subnetwork, is_used=is_waited_for)
                    if is_waited_for:
                        answered = Answered(
                            row,
                            run.subnetwork,
                            size,
                            run.predicted_s,
                            started_at,
                            finished_at,
                            given_at=finished_at,
                            before=request.payload.best,
                            is_first_reply=place == 0,
                        )
                        self._answer(request, answered)
            case _Failed(error):
                self._on_failure(error)
                for request in run.batch:
                    self._fail(request, InternalError(f"the run of {run.subnetwork} failed"))

    def _answer(self, request: Request, answered: Answered) -> None:
        """Give a request its answer, unless it is to be refined."""
        job: Job = request.payload
        if job.stop_at_confidence < inf and answered.probabilities.max() >= job.stop_at_confidence:
            self._scheduler.accept_answer(request)
        elif not self._has_given_up and self._scheduler.refine(
            request, answered.subnetwork, self._clock()
        ):
            job.best = answered
            if job.on_answer is not None:
                job.on_answer(answered)
            return
        job.future.set_result(answered)

    def _deliver(self, request: Request) -> None:
        """Give a request the best answer that it has."""
        job: Job = request.payload
        assert job.best is not None
        if not job.future.done():
            job.future.set_result(replace(job.best, given_at=self._clock()))

    def _fail(self, request: Request, problem: Problem) -> None:
        """Give a request the best answer that it has, or the reason why there is none."""
        job: Job = request.payload
        if job.future.done():
            return
        if job.best is None:
            job.future.set_exception(problem)
        else:
            self._scheduler.cancel(request)
            self._deliver(request)

    def _account(self) -> None:
        """Tell the scheduler what requests cost the event loop: under load all that this thread does is for them."""
        if self._came >= OVERHEAD_REQUESTS:
            cpu_s, now = time.thread_time(), self._clock()
            if now - self._counting_since < OVERHEAD_WINDOW_S:
                spent_s = cpu_s - self._cpu_s
                cost_s = max(spent_s - self._shed_s, 0.0) / self._came
                arrived = self._came + self._shed
                arrival_s = max(spent_s, 0.0) / arrived
                replying_s = cost_s / 2 * self._came / arrived
                self._scheduler.observe_overhead(cost_s, arrival_s, arrival_s - replying_s)
            self._came, self._shed, self._shed_s = 0, 0, 0.0
            self._cpu_s, self._counting_since = cpu_s, now


@dataclass(frozen=True, slots=True)
class _Finished:
    probabilities: NDArray[np.float32]  # (N, classes)
    started_at: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception
