import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from threading import Event, get_ident

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from model.images import Pixels
from service.engine.devices.worker import Worker
from service.engine.dispatcher import Dispatcher, Runs
from service.engine.dispatcher import Event as Told
from service.hop import Answer, Delivered
from service.observability.telemetry import Metrics
from service.problems import (
    DeadlineImpossible,
    Expired,
    InternalError,
    NotReady,
    Overloaded,
    Problem,
    problem_of,
)
from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.requests import Refine, Shed
from service.scheduling.scheduler import Scheduler

pytestmark = pytest.mark.anyio

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


async def test_an_idle_machine_answers_from_the_most_accurate_subnetwork() -> None:
    machine = Machine()
    machine.go.set()

    async with dispatching(machine) as dispatcher:
        answered = await ask(dispatcher)

    assert answered.subnetwork == "deep"
    assert answered.answer.started_at <= answered.answer.finished_at


async def test_only_a_very_short_run_stays_on_the_event_loop() -> None:
    machine = Machine()
    machine.go.set()

    async with dispatching(machine) as dispatcher:
        await ask(dispatcher, subnetwork="tiny")
        await ask(dispatcher, subnetwork="fast")

    assert [thread == get_ident() for thread in machine.threads] == [True, False]


async def test_a_short_run_takes_turns_with_the_warm_up_of_another_bundle() -> None:
    machine, worker, warmed_up = Machine(), Worker(), Event()
    machine.go.set()

    async with dispatching(machine, worker=worker) as dispatcher:
        warm_up = asyncio.create_task(worker.call(warmed_up.wait))
        await asked()  # it has begun
        waiting = ask(dispatcher, subnetwork="tiny")
        await asked()  # it was admitted
        assert machine.runs == []
        warmed_up.set()
        await asyncio.gather(warm_up, waiting)
        await ask(dispatcher, subnetwork="tiny")

    assert [thread == get_ident() for thread in machine.threads] == [False, True]


async def test_what_is_given_up_gets_the_answer_that_it_has_or_the_reason() -> None:
    machine = Machine()
    machine.go.set()
    came, found = asyncio.Event(), list[str]()

    def keep() -> None:
        machine.go.clear()  # for the run of a better one
        came.set()

    async with dispatching(machine) as dispatcher:
        stream = ask(dispatcher, 86_400, refine="steps", found=found, came=keep)
        await came.wait()
        waiting = ask(dispatcher, deadline_s=86_400)
        await asked()  # it was admitted

        dispatcher.give_up(dispatcher.runs, NotReady("the bundle was replaced"))

        with pytest.raises(NotReady):
            await waiting
        machine.go.set()
        assert (await stream).before == found[:1]
    assert len(machine.runs) == 2


async def test_each_request_of_a_batch_gets_its_own_row() -> None:
    machine = Machine()
    first, *rest = (np.full((2, 2, 3), value, np.uint8) for value in range(4))

    async with dispatching(machine) as dispatcher:
        leader = ask(dispatcher, subnetwork="fast", image=first)
        await asked()  # the leader is running before the others come
        others = [ask(dispatcher, subnetwork="fast", image=image) for image in rest]
        await asked()
        machine.go.set()
        answers = await asyncio.gather(leader, *others)

    assert [answer.probabilities for answer in answers] == [[0, 1], [1, 3], [2, 3], [3, 3]]
    assert machine.runs == [("fast", 1), ("fast", 3)]


async def test_a_run_that_fails_is_told_to_its_batch_and_the_next_one_runs() -> None:
    machine = Machine()
    machine.failure = RuntimeError("out of memory")
    machine.go.set()

    async with dispatching(machine) as dispatcher:
        with pytest.raises(InternalError, match="the run of deep failed"):
            await ask(dispatcher)
        machine.failure = None
        answered = await ask(dispatcher)

    assert answered.subnetwork == "deep"


@pytest.mark.parametrize(
    "answers", [np.zeros((3, 2)), np.full((1, 2), np.nan), np.array([[1, np.inf]])]
)
async def test_answers_that_do_not_match_their_images_or_are_no_numbers_are_a_failed_run(
    answers: NDArray[np.float32],
) -> None:
    machine = Machine()
    machine.go.set()
    machine.run = lambda subnetwork, batch: answers  # type: ignore[method-assign]

    async with dispatching(machine) as dispatcher:
        with pytest.raises(InternalError, match="the run of deep failed"):
            await ask(dispatcher)


async def test_a_choice_that_fails_is_told_to_all_who_wait_and_the_next_request_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine()
    async with dispatching(machine) as dispatcher:
        running = ask(dispatcher)
        waiting = [ask(dispatcher) for _ in range(3)]
        await asked()
        with monkeypatch.context() as broken:
            broken.setattr(Scheduler, "next_action", lambda self, now: 1 / 0)
            last = ask(dispatcher)
            failed = await asyncio.gather(*waiting, last, return_exceptions=True)
        machine.go.set()

        assert (await running).subnetwork == "deep"
        assert (await ask(dispatcher)).subnetwork == "deep"

    assert all(isinstance(each, InternalError) for each in failed)


async def test_a_request_whose_client_has_gone_is_never_run() -> None:
    machine = Machine()

    async with dispatching(machine) as dispatcher:
        running = ask(dispatcher, subnetwork="fast")
        await asked()
        gone = ask(dispatcher, subnetwork="deep")
        await asked()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        machine.go.set()
        await running

    assert machine.runs == [("fast", 1)]


async def test_a_client_may_leave_during_the_run() -> None:
    machine = Machine()

    async with dispatching(machine) as dispatcher:
        gone = ask(dispatcher)
        await asked()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        machine.go.set()
        answered = await ask(dispatcher)

    assert answered.subnetwork == "deep"


async def test_a_deadline_under_the_fastest_run_is_impossible() -> None:
    async with dispatching(Machine()) as dispatcher:
        with pytest.raises(DeadlineImpossible) as caught:
            await ask(dispatcher, 0.0001, refuse=True)

    assert caught.value.members["deadline_ms"] == pytest.approx(0.1)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    machine = Machine()

    async with dispatching(machine, max_queue=2) as dispatcher:
        accepted = [ask(dispatcher)]
        await asked()  # it runs
        accepted += [ask(dispatcher) for _ in range(2)]
        await asked()  # they wait
        with pytest.raises(Overloaded, match="2 requests wait already") as caught:
            await ask(dispatcher)
        machine.go.set()
        await asyncio.gather(*accepted)

    assert int(caught.value.headers["Retry-After"]) >= 1


async def test_a_request_that_expires_in_the_queue_is_told_so_at_once() -> None:
    machine = Machine()

    async with dispatching(machine) as dispatcher:
        running = ask(dispatcher, subnetwork="fast")
        await asked()
        with pytest.raises(Expired, match="no run could end within 50 ms"):
            await ask(dispatcher, 0.05, refuse=True)  # while the machine is stuck in its run
        machine.go.set()
        await running


async def test_closing_waits_for_the_run_that_has_begun() -> None:
    machine = Machine()

    async with dispatching(machine) as dispatcher:
        waiting = ask(dispatcher)
        await asked()

    answered = await waiting
    assert answered.subnetwork == "deep"


class Stuck(Machine):
    """A device that never ends a deep run, until it is let go."""

    def run(self, subnetwork: str, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        if subnetwork == "deep":
            return super().run(subnetwork, batch)
        self.runs.append((subnetwork, len(batch)))
        return np.tile(np.array([0.25, 0.75], np.float32), (len(batch), 1))


def ask_for_steps(
    dispatcher: OfOne, found: list[str], deadline_s: float, stop_at_confidence: float = 2.0
) -> "asyncio.Task[Answered]":
    return ask(
        dispatcher, deadline_s, refine="steps", stop_at_confidence=stop_at_confidence, found=found
    )


async def test_each_answer_is_told_and_the_last_returned() -> None:
    machine, found = Machine(), list[str]()
    machine.go.set()

    async with dispatching(machine) as dispatcher:
        answered = await ask_for_steps(dispatcher, found, 60.0)

    assert (found, answered.subnetwork) == (["tiny", "fast"], "deep")


async def test_the_best_answer_is_given_at_the_deadline_while_a_deep_run_is_stuck() -> None:
    machine, found = Stuck(), list[str]()

    async with dispatching(machine) as dispatcher:
        answered = await ask_for_steps(dispatcher, found, 0.2)
        assert dispatcher.is_idle is False  # the run goes on
        machine.go.set()

    assert (found, answered.subnetwork) == (["tiny", "fast"], "fast")
    assert machine.runs == [("tiny", 1), ("fast", 1), ("deep", 1)]


async def test_a_deep_run_that_fails_leaves_the_answer_before_it() -> None:
    machine, found = Stuck(), list[str]()
    machine.failure = RuntimeError("out of memory")
    machine.go.set()

    async with dispatching(machine) as dispatcher:
        answered = await ask_for_steps(dispatcher, found, 60.0)

    assert (found, answered.subnetwork) == (["tiny", "fast"], "fast")


async def test_an_answer_that_is_sure_enough_is_the_last() -> None:
    machine, found = Stuck(), list[str]()

    async with dispatching(machine) as dispatcher:
        answered = await ask_for_steps(dispatcher, found, 60.0, stop_at_confidence=0.7)

    assert (found, answered.subnetwork) == ([], "tiny")


async def test_a_client_that_leaves_is_refined_no_further() -> None:
    machine, found = Stuck(), list[str]()

    async with dispatching(machine) as dispatcher:
        running = ask(dispatcher, subnetwork="deep")
        await asked()
        stream = ask_for_steps(dispatcher, found, 60.0)
        await asked()
        stream.cancel()
        machine.go.set()
        await running
        with pytest.raises(asyncio.CancelledError):
            await stream

    assert machine.runs == [("deep", 1)]


async def test_work_goes_to_both_of_two_devices() -> None:
    one, other = Machine(), Machine()

    async with dispatching(one, other) as dispatcher:
        waiting = []
        for machine in (one, other):
            waiting.append(ask(dispatcher, subnetwork="deep"))
            await asyncio.to_thread(machine.begun.wait)
        assert one.runs == other.runs == [("deep", 1)]
        one.go.set()
        other.go.set()
        await asyncio.gather(*waiting)


async def test_a_device_whose_runs_fail_is_lost_and_the_other_answers() -> None:
    broken, sound = Machine(), Machine()
    broken.failure = RuntimeError("an illegal memory access was encountered")
    broken.go.set()
    sound.go.set()
    lost: list[int] = []

    async with dispatching(broken, sound, on_broken=lost.append) as dispatcher:
        for _ in range(3):
            with pytest.raises(InternalError):
                await ask(dispatcher)
        dispatcher.lose(*lost)
        answers = await asyncio.gather(*(ask(dispatcher) for _ in range(4)))

    assert lost == [0]
    assert {each.subnetwork for each in answers} == {"deep"}
    assert len(broken.runs) == 3


async def test_what_runs_on_a_device_that_hangs_fails_and_the_other_answers() -> None:
    hanging, sound = Machine(), Machine()
    sound.go.set()

    async with dispatching(hanging, sound) as dispatcher:
        stuck = ask(dispatcher, subnetwork="deep")
        await asyncio.to_thread(hanging.begun.wait)

        dispatcher.lose(0)
        with pytest.raises(InternalError, match="its run hangs"):
            await stuck
        assert (await ask(dispatcher)).subnetwork == "deep"
        hanging.go.set()  # what it answers now has no one to go to
        assert (await ask(dispatcher)).subnetwork == "deep"

    assert len(hanging.runs) == 1


async def test_a_run_hangs_that_takes_far_longer_than_expected() -> None:
    now = 100.0
    worker, go = Worker(clock=lambda: now), Event()

    worker.start(lambda: None, 0.1)
    worker.start(lambda: assert_comes(go), 0.1)
    worker.start(lambda: None, 60.0)

    now += 0.5
    assert not worker.seems_to_hang(now)
    assert worker.seems_to_hang(now + 10)
    go.set()
    worker.close()
    assert not worker.seems_to_hang(now + 1000)


async def test_a_warm_up_may_take_any_time() -> None:
    worker, go = Worker(), Event()

    warm_up = asyncio.create_task(worker.call(go.wait))
    await asked()

    assert not worker.seems_to_hang(time.monotonic() + 3600)
    go.set()
    assert await warm_up
    worker.close()


def assert_comes(event: Event) -> None:
    assert event.wait(timeout=30)
