"""A dispatcher on machines that a test holds and lets go, and what asks it as a front does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from threading import Event, get_ident

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from model.images import Pixels
from service.engine.devices.worker import Worker
from service.engine.dispatcher import Dispatcher, Runs
from service.engine.dispatcher import Event as Told
from service.hop import Answer, Delivered
from service.observability.telemetry import Metrics
from service.problems import Problem, problem_of
from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.requests import Refine, Shed
from service.scheduling.scheduler import Scheduler

IMAGE = np.zeros((2, 2, 3), np.uint8)


PROFILE = {"tiny": {1: 0.0001}, "fast": {1: 0.001, 4: 0.002}, "deep": {1: 0.010, 4: 0.040}}


CANDIDATES = [Candidate("tiny", 0.1), Candidate("fast", 0.8), Candidate("deep", 0.9)]


RunBatch = Callable[[str, Sequence[Pixels]], NDArray[np.float32]]


class Machine:
    """A device whose runs wait until they are let go; it remembers what it ran."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self.threads: list[int] = []
        self.begun = Event()
        self.go = Event()
        self.failure: Exception | None = None

    def run(self, subnetwork: str, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        self.runs.append((subnetwork, len(batch)))
        self.threads.append(get_ident())
        self.begun.set()
        assert self.go.wait(timeout=30)
        if self.failure is not None:
            raise self.failure
        return np.array([[image[0, 0, 0], len(batch)] for image in batch], np.float32)


@dataclass(frozen=True)
class Answered:
    """The last answer to a request, and the subnetworks of those that were told before."""

    subnetwork: str
    probabilities: list[float]
    answer: Answer
    before: list[str]


class OfOne(Dispatcher):
    """A dispatcher with one model."""

    runs: Runs


@asynccontextmanager
async def dispatching(
    *machines: Machine,
    max_queue: int = 100,
    clock: Callable[[], float] = time.monotonic,
    worker: Worker | None = None,
    on_broken: Callable[[int], None] = lambda device: None,
) -> AsyncIterator[OfOne]:
    devices = Devices(len(machines))
    model = Model(CANDIDATES, LatencyModel(PROFILE, devices), max_batch=4)
    workers = [worker] if worker else [Worker() for _ in machines]
    dispatcher = OfOne(
        Scheduler(devices, max_queue=max_queue),
        workers=workers,
        metrics=Metrics(CollectorRegistry(), version="test"),
        clock=clock,
        on_failure=lambda error: None,
        on_change=lambda: None,
        on_broken=on_broken,
    )
    places = {name: place for place, name in enumerate(PROFILE)}
    dispatcher.runs = Runs(
        "digits", model, [each.run for each in machines], places, lambda *answer: None
    )
    dispatcher.begin(dispatcher.runs)
    try:
        yield dispatcher
    finally:
        for machine, each in zip(machines, workers, strict=True):
            machine.go.set()
            each.close()
        dispatcher.close()


def ask(
    dispatcher: OfOne,
    deadline_s: float = 60.0,
    *,
    refuse: bool = False,
    subnetwork: str | None = None,
    image: Pixels = IMAGE,
    refine: Refine = "none",
    stop_at_confidence: float = inf,
    found: list[str] | None = None,
    came: Callable[[], None] = lambda: None,
) -> "asyncio.Task[Answered]":
    """Ask as a front does: until the last event, or until the client leaves."""
    arrived_at = time.monotonic()
    names = tuple(PROFILE)

    async def run() -> Answered:
        told: asyncio.Queue[Told] = asyncio.Queue()
        request = dispatcher.submit(
            dispatcher.runs,
            image,
            told.put_nowait,
            arrived_at=arrived_at,
            deadline_at=arrived_at + deadline_s,
            on_miss="refuse" if refuse else "answer",
            subnetwork=subnetwork,
            refine=refine,
            stop_at_confidence=stop_at_confidence,
        )
        answers: list[Answer] = []
        try:
            while True:
                match await told.get():
                    case Answer() as answer:
                        answers.append(answer)
                        if answer.is_last:
                            break
                        if found is not None:
                            found.append(names[answer.subnetwork])
                        came()
                    case Delivered():
                        break
                    case Shed() as shed:
                        raise problem_of(shed)
                    case Problem() as problem:
                        raise problem
        except asyncio.CancelledError:
            assert request is not None
            dispatcher.cancel(request)
            raise
        *before, last = answers
        row = np.frombuffer(last.probabilities, np.float32).tolist()
        return Answered(
            names[last.subnetwork], row, last, [names[each.subnetwork] for each in before]
        )

    return asyncio.create_task(run())


async def asked() -> None:
    """Let what was asked reach the devices."""
    for _ in range(3):
        await asyncio.sleep(0)
