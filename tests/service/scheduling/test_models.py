"""Several models on the same devices: one order of deadlines, and no batch of two."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.requests import Expire, OnMiss, Refine, Request, Run, Wait
from service.scheduling.scheduler import Scheduler
from service.scheduling.simulator import Machine, Simulation

SMALL = {"small-1": {1: 0.001, 16: 0.004}, "small-2": {1: 0.004, 16: 0.016}}
LARGE = {"large-1": {1: 0.008, 16: 0.128}, "large-2": {1: 0.030, 16: 0.480}}
TRUTH = LatencyModel(SMALL | LARGE)


def model(profile: dict[str, dict[int, float]], devices: Devices) -> Model:
    accuracy = (0.7, 0.8)
    candidates = [Candidate(*each) for each in zip(profile, accuracy, strict=True)]
    return Model(candidates, LatencyModel(profile, devices), max_batch=16)


def two(max_queue: int = 100) -> tuple[Scheduler, Model, Model]:
    devices = Devices(reserve_s=0.0)
    small, large = model(SMALL, devices), model(LARGE, devices)
    return Scheduler(devices, [small, large], max_queue=max_queue), small, large


def request(deadline_s: float, arrived_at: float = 0.0) -> Request:
    return Request(arrived_at, arrived_at + deadline_s, "refuse")


def next_run(core: Scheduler, now: float = 0.0) -> Run:
    run = core.next_action(now)
    assert isinstance(run, Run)
    return run


def test_the_most_urgent_request_runs_first_whatever_model_it_asks() -> None:
    core, small, large = two()
    patient, urgent = request(0.5), request(0.1)
    core.admit(patient, 0.0, model=small)
    core.admit(urgent, 0.0, model=large)

    first = next_run(core)

    assert (first.batch, first.model) == ((urgent,), large)


def test_a_request_that_names_no_model_asks_the_first() -> None:
    core, small, _ = two()
    core.admit(request(0.1), 0.0)

    assert next_run(core).model is small


def test_no_long_run_begins_while_urgent_requests_for_another_model_are_expected() -> None:
    core, small, large = two()
    core.admit(request(0.1), 0.0, model=large)
    assert next_run(core).subnetwork == "large-2"

    core, small, large = two()
    for k in range(3):
        core.admit(request(0.02, k / 100), k / 100, model=small)
        core.finished(next_run(core, k / 100), k / 100 + 0.005)
    core.admit(request(0.1, 0.03), 0.03, model=large)
    run = next_run(core, 0.03)
    assert run.subnetwork == "large-1"
    core.finished(run, 0.04)
    core.admit(request(0.1, 1.0), 1.0, model=large)
    assert next_run(core, 1.0).subnetwork == "large-2"  # they come no more


def test_time_is_shared_by_what_each_model_takes_at_least() -> None:
    core, small, large = two()
    for _ in range(3):  # 22 ms each, and 1.1 for the small one: an equal share would be 22 ms too
        core.admit(request(0.090), 0.0, model=large)
    core.admit(request(0.090), 0.0, model=small)

    runs = []
    now = 0.0
    while core.admission.waiting:
        run = next_run(core, now)
        now += TRUTH.profile_s(run.subnetwork, len(run.batch))
        core.finished(run, now)
        runs.append(run)

    assert now <= 0.090
    assert sum(len(run.batch) for run in runs) == 4


def test_work_that_is_due_later_sheds_no_urgent_request_of_another_model() -> None:
    core, small, large = two()
    for n in range(20):
        assert core.admit(request(1.0 + n), 0.0, model=large) is None
        assert core.admit(request(0.010), 0.0, model=small) is None or n >= 8

    before = core.admission.waiting
    shed = core.admit(request(0.9), 0.0, model=small)

    assert shed is None
    assert core.admission.waiting == before + 1


def test_a_model_whose_time_is_taken_by_another_sheds() -> None:
    core, small, large = two()
    for _ in range(10):
        assert core.admit(request(0.1), 0.0, model=large) is None

    shed = core.admit(request(0.1005), 0.0, model=small)
    assert shed is None  # 80 ms are before it
    for _ in range(2):
        core.admit(request(0.1), 0.0, model=large)
    shed = core.admit(request(0.1), 0.0, model=large)
    assert shed is not None
    assert shed.reason == "overloaded"
    assert core.admit(request(0.05), 0.0, model=large) is None  # it goes before them
    assert core.admit(request(0.05), 0.0, model=small) is None


def test_a_batch_grows_past_a_request_for_another_model_that_can_wait() -> None:
    core, small, large = two()
    smalls = [request(0.150 + n / 1000) for n in range(4)]
    for each in smalls[:2]:
        core.admit(each, 0.0, model=small)
    core.admit(request(0.1515), 0.0, model=large)
    for each in smalls[2:]:
        core.admit(each, 0.0, model=small)

    assert next_run(core).batch == tuple(smalls)


def test_a_batch_does_not_grow_past_a_request_that_cannot_wait() -> None:
    core, small, large = two()
    smalls = [request(0.0100), *(request(0.0102) for _ in range(3))]
    core.admit(smalls[0], 0.0, model=small)
    core.admit(request(0.0101), 0.0, model=large)  # 8.8 ms of run, and 1.1 before it
    for each in smalls[1:]:
        core.admit(each, 0.0, model=small)

    assert next_run(core).batch == (smalls[0],)


def test_replies_of_a_busy_model_that_take_long_now_and_then_shed_no_short_deadline_of_another() -> (
    None
):
    core, small, large = two()
    core.admit(request(1.0), 0.0, model=large)

    for k in range(3000):  # as fronts do on cores that others want too
        core.devices.observe_reply(0.009 if k % 10 == 0 else 0.001)

    assert core.admit(request(0.010), 0.0, model=small) is None


def test_what_slows_a_run_of_one_model_is_expected_of_the_other() -> None:
    _, small, large = two()
    before_s = large.latency.typical_s("large-1", 1)

    for _ in range(5):
        small.latency.observe("small-1", 1, 0.002)

    assert large.latency.typical_s("large-1", 1) > 1.75 * before_s


def test_the_least_urgent_request_of_all_models_gives_way() -> None:
    core, small, large = two(max_queue=2)
    last = request(9.0)
    core.admit(last, 0.0, model=large)
    core.admit(request(1.0), 0.0, model=small)

    assert core.admit(request(0.5), 0.0, model=small) is None
    assert core.admission.displaced(0.0).requests == (last,)  # type: ignore[union-attr]


def test_a_model_that_leaves_takes_its_requests_along() -> None:
    core, small, large = two()
    stays, leaves = request(1.0), request(0.5)
    core.admit(stays, 0.0, model=small)
    core.admit(leaves, 0.0, model=large)

    assert core.clear(large) == (leaves,)
    core.remove(large)

    assert next_run(core).batch == (stays,)
    assert len(core.admission.publish(0.0)) == 1


def test_each_model_publishes_its_own_least_times() -> None:
    core, _, _ = two()

    of_small, of_large = core.admission.publish(0.0)

    assert of_small.check_before_decode(0.0, 0.005, "refuse", now=0.0) is None
    shed = of_large.check_before_decode(0.0, 0.005, "refuse", now=0.0)
    assert shed is not None
    assert shed.reason == "impossible"


arrivals = st.tuples(
    st.floats(0.0, 0.3),
    st.sampled_from([0.002, 0.03, 0.1, 0.5]),
    st.sampled_from(["answer", "refuse"]),
    st.sampled_from(["none", "deepest", "steps"]),
    st.booleans(),
)


@given(st.lists(arrivals, min_size=1, max_size=60), st.floats(0.0, 0.001))
@settings(max_examples=100)
def test_every_request_of_every_model_ends_exactly_once(
    drawn: list[tuple[float, float, OnMiss, Refine, bool]], overhead_s: float
) -> None:
    core, small, large = two()
    ended: list[Request] = []
    simulation = Simulation(
        core, Machine(TRUTH, overhead_s=overhead_s), lambda each, at: ended.append(each)
    )
    requests = []
    for arrived_at, deadline_s, on_miss, refine, is_large in drawn:
        asked = Request(arrived_at, arrived_at + deadline_s, on_miss, refine=refine)
        requests.append(asked)
        simulation.offer(asked, large if is_large else small)

    simulation.run_until(float("inf"))

    assert len(ended) == len(set(ended)) == len(requests)
    assert set(ended) == set(requests)
    assert simulation.unanswered == 0
    assert simulation.tally.received == len(requests)


@given(st.lists(arrivals, min_size=1, max_size=40))
@settings(max_examples=100)
def test_a_run_is_for_one_model_and_no_run_is_predicted_late(
    drawn: list[tuple[float, float, OnMiss, Refine, bool]],
) -> None:
    core, small, large = two()
    for _, deadline_s, _, _, is_large in drawn:
        core.admit(request(deadline_s), 0.0, model=large if is_large else small)
    now = 0.0

    while core.admission.waiting:
        action = core.next_action(now)
        if isinstance(action, Expire):
            continue
        if isinstance(action, Wait):
            assert action.until is not None
            now = action.until
            continue
        assert isinstance(action, Run)
        assert len({each.model for each in action.batch}) == 1
        assert action.subnetwork in action.model.accuracy
        end_at = now + action.predicted_s
        assert all(each.deadline_at >= end_at - 1e-9 for each in action.batch)
        core.finished(action, now := end_at)


@pytest.mark.parametrize("seed", [1, 2])
def test_two_models_in_one_queue_keep_as_many_deadlines_as_on_half_a_machine_each(
    seed: int,
) -> None:
    """Half a machine is one that takes twice as long; each model asks for most of its half."""
    from random import Random

    rng = Random(seed)
    asked = []
    for is_large, rate, deadline_s in ((False, 200, 0.020), (True, 15, 0.150)):
        now = 0.0
        while (now := now + rng.expovariate(rate)) < 20:
            asked.append((is_large, now, deadline_s))
    asked.sort(key=lambda each: each[1])

    core, small, large = two()
    together = Simulation(core, Machine(TRUTH))
    for is_large, at, deadline_s in asked:
        together.offer(request(deadline_s, at), large if is_large else small)
    together.run_until(float("inf"))

    met = 0
    for each in (False, True):
        devices = Devices(reserve_s=0.0)
        halved = {
            name: {size: 2 * run_s for size, run_s in cells.items()}
            for name, cells in (LARGE if each else SMALL).items()
        }
        alone = Simulation(
            Scheduler(devices, [model(halved, devices)], max_queue=100),
            Machine(LatencyModel(halved)),
        )
        for is_large, at, deadline_s in asked:
            if is_large == each:
                alone.offer(request(deadline_s, at))
        alone.run_until(float("inf"))
        met += alone.tally.in_time.total()

    assert together.tally.in_time.total() >= met
