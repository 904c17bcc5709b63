"""The scheduler's requests that have an answer, and time left for a better one."""

from collections.abc import Mapping

import pytest

from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.requests import Action, Deliver, Refine, Request, Run, Wait
from service.scheduling.scheduler import Scheduler

SUBNETWORKS = (Candidate("column-1", 0.7), Candidate("column-2", 0.8), Candidate("full", 0.9))
PROFILE: Mapping[str, Mapping[int, float]] = {
    "column-1": {1: 0.001, 16: 0.016},
    "column-2": {1: 0.004, 16: 0.064},
    "full": {1: 0.016, 16: 0.256},
}


def scheduler(
    profile: Mapping[str, Mapping[int, float]] = PROFILE, max_queue: int = 100
) -> Scheduler:
    devices = Devices(reserve_s=0.0)
    model = Model(SUBNETWORKS, LatencyModel(profile, devices))
    return Scheduler(devices, [model], max_queue=max_queue)


def request(deadline_s: float, refine: Refine = "none", arrived_at: float = 0.0) -> Request:
    return Request(arrived_at, arrived_at + deadline_s, refine=refine)


def run_of(action: Action) -> Run:
    assert isinstance(action, Run)
    return action


def answers(core: Scheduler, asked: Request, now: float = 0.0) -> list[str]:
    """Return what answers a lone request, in order; runs take what is typical."""
    core.admit(asked, now)
    found: list[str] = []
    while True:
        action = core.next_action(now)
        if isinstance(action, Wait):
            assert action.until is not None
            now = action.until
            continue
        if isinstance(action, Deliver):
            return found
        run = run_of(action)
        found.append(run.subnetwork)
        now += PROFILE[run.subnetwork][1]
        core.finished(run, now)
        if not core.refine(asked, run.subnetwork, now):
            return found


def test_a_stream_takes_every_step_that_there_is_time_for() -> None:
    assert answers(scheduler(), request(0.1, "steps")) == ["column-1", "column-2", "full"]


@pytest.mark.parametrize("before_s", [0.01, 5.0])
def test_a_stream_goes_to_the_end_though_an_urgent_request_came_before(before_s: float) -> None:
    core = scheduler()
    core.admit(request(0.006), 0.0)
    core.finished(run_of(core.next_action(0.0)), 0.001)

    stream = request(0.2, "steps", arrived_at=before_s)

    assert answers(core, stream, now=before_s)[-1] == "full"


def test_a_stream_among_many_urgent_requests_goes_on() -> None:
    core = scheduler()
    for k in range(300):
        at = 0.02 * k
        for _ in range(2):
            core.admit(request(0.006, arrived_at=at), at)
        while isinstance(action := core.next_action(at), Run):
            at += action.predicted_s
            core.finished(action, at)

    assert answers(core, request(0.2, "steps", arrived_at=6.0), now=6.0) == ["column-1", "column-2"]


def test_a_stream_leaves_out_a_step_that_would_cost_it_the_last() -> None:
    # 1 + 4 + 16 ms do not fit
    assert answers(scheduler(), request(0.019, "steps")) == ["column-1", "full"]


def test_a_stream_with_time_for_one_answer_has_one() -> None:
    assert answers(scheduler(), request(0.004, "steps")) == ["column-1"]


def test_a_first_answer_is_followed_by_the_deepest_that_fits() -> None:
    assert answers(scheduler(), request(0.1, "deepest")) == ["column-1", "full"]
    assert answers(scheduler(), request(0.01, "deepest")) == ["column-1", "column-2"]


def test_an_answer_that_is_good_enough_ends_the_search() -> None:
    core, asked = scheduler(), request(0.1, "steps")
    core.admit(asked, 0.0)
    run = run_of(core.next_action(0.0))
    core.finished(run, 0.001)

    core.accept_answer(asked)

    assert core.next_action(0.001) == Wait()


def test_what_waits_for_its_first_answer_goes_before_refinements() -> None:
    core, asked, late = scheduler(), request(0.2, "deepest"), request(0.2, arrived_at=0.001)
    core.admit(asked, 0.0)
    run = run_of(core.next_action(0.0))
    core.finished(run, 0.001)
    assert core.refine(asked, run.subnetwork, 0.001)
    core.admit(late, 0.001)

    assert run_of(core.next_action(0.001)).batch == (late,)


def test_the_best_answer_is_delivered_while_a_deep_run_is_late() -> None:
    core, asked = scheduler(), request(0.02, "deepest")
    core.admit(asked, 0.0)
    first = run_of(core.next_action(0.0))
    core.finished(first, 0.001)
    assert core.refine(asked, "column-1", 0.001)
    assert run_of(core.next_action(0.001)).subnetwork == "full"
    waiting = core.next_action(0.001)

    assert isinstance(waiting, Wait)
    assert waiting.until is not None
    assert 0.019 < waiting.until < 0.020
    assert core.next_action(waiting.until) == Deliver((asked,))
    assert asked.answered_by == "column-1"
    assert core.next_action(waiting.until) == Wait()


def test_an_answer_is_delivered_when_the_load_no_longer_leaves_time_for_it() -> None:
    core, asked = scheduler(), request(0.02, "deepest")
    core.admit(asked, 0.0)
    run = run_of(core.next_action(0.0))
    core.finished(run, 0.001)
    assert core.refine(asked, "column-1", 0.001)

    assert core.next_action(0.0185) == Deliver((asked,))  # nobody called in time


def test_no_more_than_the_queue_holds_wait_for_better_answers() -> None:
    core = scheduler(max_queue=1)
    first, second = request(9.0, "deepest"), request(9.0, "deepest")
    for asked in (first, second):
        core.admit(asked, 0.0)
        core.finished(run_of(core.next_action(0.0)), 0.001)

    assert core.refine(first, "column-1", 0.001)
    assert not core.refine(second, "column-1", 0.001)


def test_a_client_that_left_is_not_refined() -> None:
    core, asked = scheduler(), request(0.1, "steps")
    core.admit(asked, 0.0)
    run = run_of(core.next_action(0.0))
    core.finished(run, 0.001)
    assert core.refine(asked, "column-1", 0.001)

    assert core.cancel(asked)
    assert core.next_action(0.001) == Wait()


def test_refinements_that_go_together_run_together() -> None:
    pays = {name: {1: cells[1], 16: 2 * cells[1]} for name, cells in PROFILE.items()}
    core = scheduler(pays)
    batch = [request(1.0, "deepest") for _ in range(4)]
    for each in batch:
        core.admit(each, 0.0)
    run = run_of(core.next_action(0.0))
    assert run.batch == tuple(batch)
    core.finished(run, 0.5)  # when the burst is forgotten
    assert all(core.refine(each, "column-1", 0.5) for each in batch)

    run = run_of(core.next_action(0.5))

    assert (run.subnetwork, run.batch) == ("full", tuple(batch))
