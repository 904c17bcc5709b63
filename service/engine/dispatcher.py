"""Carries out the scheduler's decisions in real time, and tells whoever asked what becomes of each request.

Everything here but the runs happens on the event loop, and a run so short that handing it to another thread would take
as long happens there too. Every request ends on every path: answered, delivered, shed, expired, failed with its run, or
cancelled because its client left.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np
from numpy.typing import NDArray

from model.images import Pixels
from service.engine.devices.worker import Worker
from service.engine.timer import Timer
from service.hop import Answer, Delivered
from service.observability.telemetry import Metrics
from service.problems import Expired, InternalError, Problem
from service.scheduling.model import Model
from service.scheduling.requests import (
    Deliver,
    Displace,
    Expire,
    OnMiss,
    Refine,
    Request,
    Run,
    Shed,
    Wait,
)
from service.scheduling.scheduler import Scheduler

RunBatch = Callable[[str, Sequence[Pixels]], NDArray[np.float32]]
Event = Answer | Delivered | Shed | Problem  # all but an answer that is not the last end a request
Tell = Callable[[Event], None]

# To choose a run, and to tell what came of it: a batch of sixteen is decided on once.
RUN_OVERHEAD_S = 0.00015
SHORT_RUN_S = 0.001  # so long may an answer be delivered late; the way to a thread and back takes a tenth of it

MOST_FAILURES = (
    3  # runs in a row that fail: the device is broken, as a GPU is for good after some errors
)


@dataclass(slots=True)
class Runs:
    """What the requests for a model are run with.

    Args:
        name: of the model.
        model: what schedules them.
        devices: what runs a batch in a subnetwork on each device, in the scheduler's order; gives (N, classes).
        places: of the subnetworks in what fronts are told.
        on_answer: is given the pixels, the subnetwork and the probabilities (classes,) of each last answer.
        has_ended: whether no better answers are looked for any more.
    """

    name: str
    model: Model
    devices: Sequence[RunBatch]
    places: Mapping[str, int]
    on_answer: Callable[[Pixels, str, bytes], None]
    has_ended: bool = False


@dataclass(slots=True)
class Job:
    """What a request carries through the scheduler."""

    runs: Runs
    pixels: Pixels
    tell: Tell
    stop_at_confidence: float
    best: Answer | None = None
    is_over: bool = False


class Dispatcher:
    """Runs requests on devices as the scheduler decides. To be made and used on one event loop.

    Args:
        scheduler: decides.
        workers: the thread of each device, in the same order; others may use it too.
        metrics: is told of every run.
        clock: seconds, monotonic; that of the requests' ``arrived_at``.
        on_failure: is given the exception of a run, or of the choice of one, that failed.
        on_change: is called when the load has changed.
        on_broken: is given a device whose runs fail.

    Attributes:
        asked_at: when the last request came, answered or shed.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        workers: Sequence[Worker],
        metrics: Metrics,
        clock: Callable[[], float],
        on_failure: Callable[[Exception], None],
        on_change: Callable[[], None],
        on_broken: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler
        self._workers = workers
        self._metrics = metrics
        self._clock = clock
        self._on_failure = on_failure
        self._on_change = on_change
        self._on_broken = on_broken
        self._timer = Timer(self._act, clock)
        self._is_acting_soon = False
        self._running: dict[int, Run] = {}  # on the devices' threads, by device
        self._failures = Counter[int]()  # in a row, by device
        self._run_cpu_s = 0.0
        self.asked_at = -inf

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs."""
        return not self._running and not len(self._scheduler) and not self._scheduler.refinable

    @property
    def run_here_s(self) -> float:
        """The time that runs have taken the event loop."""
        return self._run_cpu_s

    def submit(
        self,
        runs: Runs,
        pixels: Pixels,
        tell: Tell,
        *,
        arrived_at: float,
        deadline_at: float,
        on_miss: OnMiss,
        subnetwork: str | None,
        refine: Refine = "none",
        stop_at_confidence: float = inf,
        was_alone: bool = False,
    ) -> Request | None:
        """Have an image answered; return the request, for ``cancel``, unless it is shed.

        Args:
            runs: of the model that is to answer.
            pixels: uint8 (H, W, 3).
            tell: is told each answer, and what else ends the request.
            arrived_at, deadline_at, on_miss, subnetwork, refine: of the scheduler's request.
            stop_at_confidence: an answer that is as sure as this is the last.
            was_alone: of ``admit``.
        """
        if subnetwork is not None:
            refine = "none"  # there is no other to go on to
        job = Job(runs, pixels, tell, stop_at_confidence)
        request = Request(arrived_at, deadline_at, on_miss, subnetwork, refine, job)
        self.asked_at = now = self._clock()
        shed = self._scheduler.admit(request, now, model=runs.model, is_alone=was_alone)
        if shed is not None:
            tell(shed)
            return None
        self._act_soon(alone=was_alone)
        return request

    def cancel(self, request: Request) -> None:
        """Forget a request whose client has gone."""
        request.payload.is_over = True
        self._scheduler.cancel(request)
        self._act_soon()

    def begin(self, runs: Runs) -> None:
        """Take requests for one more model."""
        self._scheduler.add(runs.model)

    def give_up(self, runs: Runs, problem: Problem) -> None:
        """Begin no more runs of a model: give requests the answers that they have or get now, and others the reason."""
        runs.has_ended = True
        for request in self._scheduler.clear(runs.model):
            self._fail(request, problem)

    def end(self, runs: Runs, problem: Problem) -> None:
        """Forget a model, behind its last request."""
        self.give_up(runs, problem)
        self._scheduler.remove(runs.model)

    def lose(self, device: int) -> None:
        """Give a device no more runs, and wait no longer for the one that it has; at least one other serves."""
        self._scheduler.lose(device)
        run = self._running.pop(device, None)
        for request in run.batch if run is not None else ():
            self._fail(request, InternalError("its run hangs"))
        self._act_soon()

    def close(self) -> None:
        """Set no more timers, after the last request."""
        self._timer.close()

    def _act_soon(self, *, alone: bool = False) -> None:
        """Decide once all that has come is read; for a request that is alone nothing more is waited for."""
        if not self._is_acting_soon:
            self._is_acting_soon = True
            self._loop.call_soon(self._act if alone else self._gather)

    def _gather(self) -> None:
        """Let fronts on the same core tell what they have read: what is decided on together costs less."""
        os.sched_yield()
        self._loop.call_soon(self._act)

    def _act(self) -> None:
        """Carry out the scheduler's actions until it waits, or a run took this thread."""
        self._is_acting_soon = False
        while True:
            now = self._clock()
            try:
                action = self._scheduler.next_action(now)
            except Exception as error:
                self._on_failure(error)
                for model in self._scheduler.models:
                    for request in self._scheduler.clear(model):
                        self._fail(request, InternalError("the choice of a run failed"))
                break
            match action:
                case Run() as run if self._is_short(run):
                    self._run_here(run)
                    if self.is_idle:
                        os.sched_yield()  # a front on the same core replies before anything else is done
                    else:
                        self._act_soon()  # once what came meanwhile is read
                    break
                case Run() as run:
                    self._running[run.device] = run
                    self._workers[run.device].start(partial(self._run, run), run.predicted_s)
                case Expire(requests):
                    self._expire(requests)
                case Displace(requests, shed):
                    for request in requests:
                        self._end(request, shed)
                case Deliver(requests):
                    for request in requests:
                        self._deliver(request)
                case Wait(until):
                    self._timer.set(until)
                    break
        self._on_change()

    def _expire(self, requests: Sequence[Request]) -> None:
        for request in requests:
            allowed_ms = 1e3 * (request.late_until - request.arrived_at)
            problem = Expired(f"no run could end within {allowed_ms:g} ms of the arrival")
            self._fail(request, problem)

    def _is_short(self, run: Run) -> bool:
        """Whether to run it on this thread.

        Not while another device could run what waits. And not while the next bundle is warmed up on the device's thread:
        the two would slow each other, and its profile would say for as long as it serves what was true for a moment.
        """
        is_short = run.predicted_s < SHORT_RUN_S and not self._running
        keeps_none_waiting = len(self._workers) == 1 or not len(self._scheduler)
        return is_short and keeps_none_waiting and not self._workers[run.device].is_called

    def _run_here(self, run: Run) -> None:
        """Run a batch on the event loop."""
        outcome = self._outcome_of(run)
        if isinstance(outcome, _Finished):
            self._run_cpu_s += outcome.finished_at - outcome.started_at
        self._conclude(run, outcome)

    def _outcome_of(self, run: Run) -> "_Finished | _Failed":
        """Run a batch in the calling thread."""
        started_at = self._clock()
        try:
            batch = [request.payload.pixels for request in run.batch]
            runs: Runs = run.batch[0].payload.runs
            probabilities = runs.devices[run.device](run.subnetwork, batch)
            if len(probabilities) != len(batch):
                raise RuntimeError(f"{len(batch)} images gave {len(probabilities)} answers")
            if not np.isfinite(probabilities).all():
                raise RuntimeError("a probability is no number")
        except Exception as error:
            return _Failed(error)
        return _Finished(probabilities, started_at, self._clock())

    def _run(self, run: Run) -> None:
        """Run a batch on the thread of its device, and tell the event loop."""
        outcome = self._outcome_of(run)
        self._loop.call_soon_threadsafe(self._finish, run, outcome)

    def _finish(self, run: Run, outcome: "_Finished | _Failed") -> None:
        if self._running.pop(run.device, None) is not None:  # else the device was lost meanwhile
            self._conclude(run, outcome)
            self._act()

    def _conclude(self, run: Run, outcome: "_Finished | _Failed") -> None:
        """Learn from a run that ended, and answer its requests."""
        self._scheduler.finished(run, self._clock())
        name = run.batch[0].payload.runs.name
        match outcome:
            case _Finished(probabilities, started_at, finished_at):
                self._failures[run.device] = 0
                size, run_s = len(run.batch), finished_at - started_at
                run.model.latency.observe(run.subnetwork, size, run_s + RUN_OVERHEAD_S, run.device)
                self._metrics.run_ended(
                    name,
                    subnetwork=run.subnetwork,
                    batch_size=size,
                    run_latency_s=run_s,
                    predicted_s=run.predicted_s,
                )
                for place, (request, row) in enumerate(zip(run.batch, probabilities, strict=True)):
                    is_waited_for = not request.payload.is_over
                    if request.answered_by is not None:
                        self._metrics.refined(name, run.subnetwork, is_used=is_waited_for)
                    if is_waited_for:
                        self._answer(request, run, row, (started_at, finished_at), place == 0)
            case _Failed(error):
                self._on_failure(error)
                for request in run.batch:
                    self._fail(request, InternalError(f"the run of {run.subnetwork} failed"))
                self._failures[run.device] += 1
                if self._failures[run.device] == MOST_FAILURES:
                    self._on_broken(run.device)

    def _answer(
        self,
        request: Request,
        run: Run,
        row: NDArray[np.float32],
        ran: tuple[float, float],
        is_first_reply: bool,
    ) -> None:
        """Tell an answer, and whether it is to be refined."""
        job: Job = request.payload
        is_last = True
        if job.stop_at_confidence < inf and row.max() >= job.stop_at_confidence:
            self._scheduler.accept_answer(request)
        elif not job.runs.has_ended:
            is_last = not self._scheduler.refine(request, run.subnetwork, self._clock())
        answer = Answer(
            row.tobytes(),
            job.runs.places[run.subnetwork],
            len(run.batch),
            run.predicted_s,
            *ran,
            is_last,
            is_first_reply,
        )
        if is_last:
            job.runs.on_answer(job.pixels, run.subnetwork, answer.probabilities)
            self._end(request, answer)
        else:
            job.best = answer
            job.tell(answer)

    def _deliver(self, request: Request) -> None:
        """Say that the answer that was told last is the best."""
        job: Job = request.payload
        assert job.best is not None
        if not job.is_over:
            name = request.answered_by
            assert name is not None
            job.runs.on_answer(job.pixels, name, job.best.probabilities)
        self._end(request, Delivered(self._clock()))

    def _fail(self, request: Request, problem: Problem) -> None:
        """End a request with the best answer that it has, or the reason why there is none."""
        job: Job = request.payload
        if job.best is not None and not job.is_over:
            self._scheduler.cancel(request)
            self._deliver(request)
        else:
            self._end(request, problem)

    def _end(self, request: Request, event: Event) -> None:
        """Tell the last of a request, once."""
        job: Job = request.payload
        if not job.is_over:
            job.is_over = True
            job.tell(event)


@dataclass(frozen=True, slots=True)
class _Finished:
    probabilities: NDArray[np.float32]  # (N, classes)
    started_at: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception
