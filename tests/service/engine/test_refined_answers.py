"""A request is told of each better answer until one is good enough, its deadline comes, or its client leaves."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from model.images import Pixels
from tests.service.engine.dispatching import Answered, Machine, OfOne, ask, asked, dispatching

pytestmark = pytest.mark.anyio


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
