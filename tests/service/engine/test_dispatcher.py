import asyncio
from threading import Event, get_ident

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.devices.worker import Worker
from service.problems import DeadlineImpossible, Expired, InternalError, NotReady, Overloaded
from service.scheduling.scheduler import Scheduler
from tests.service.engine.dispatching import Machine, ask, asked, dispatching

pytestmark = pytest.mark.anyio


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
