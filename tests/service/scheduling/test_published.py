"""What a front sheds by the published numbers alone, without asking the engine."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.scheduling.latency import Devices, LatencyModel
from service.scheduling.model import Model
from service.scheduling.policies import Candidate
from service.scheduling.published import STEPS, Published
from service.scheduling.requests import OnMiss, Request, Run
from service.scheduling.scheduler import Scheduler

SUBNETWORKS = (Candidate("column-1", 0.7), Candidate("full", 0.83))
PROFILE = {"column-1": {1: 0.001, 16: 0.016}, "full": {1: 0.016, 16: 0.256}}
FULL = 2  # its place in what is published; 0 is any


def scheduler(max_queue: int = 100) -> Scheduler:
    devices = Devices(reserve_s=0.0)
    model = Model(SUBNETWORKS, LatencyModel(PROFILE, devices))
    return Scheduler(devices, [model], max_queue=max_queue)


def crowded(count: int, deadline_s: float = 0.05, max_queue: int = 100) -> Scheduler:
    core = scheduler(max_queue)
    for _ in range(count):
        core.admit(Request(0.0, deadline_s, "refuse"), 0.0)
    return core


def reason(
    published: Published,
    deadline_s: float,
    on_miss: OnMiss = "refuse",
    *,
    subnetwork: int = 0,
    ahead: int = 0,
) -> str:
    shed = published.check_before_decode(
        0.0, deadline_s, on_miss, now=0.0, subnetwork=subnetwork, ahead=ahead
    )
    return "" if shed is None else shed.reason


def test_an_idle_engine_leaves_open_what_it_could_answer() -> None:
    published = scheduler().admission.publish(0.0)[0]

    assert reason(published, 0.002) == ""
    assert reason(published, 0.0005) == "impossible"
    assert reason(published, 0.010, subnetwork=FULL) == "impossible"
    assert reason(published, 0.020, subnetwork=FULL) == ""


def test_what_was_published_long_ago_says_nothing_of_an_engine_that_is_idle_since() -> None:
    published = scheduler().admission.publish(0.0)[0]

    assert published.check_before_decode(9.0, 9.002, "refuse", now=9.0) is None
    shed = published.check_before_decode(9.0, 9.002, "refuse", now=9.0015)
    assert shed is not None
    assert shed.reason == "overloaded"


def test_a_request_behind_a_backlog_is_shed_and_told_how_long_it_would_take() -> None:
    published = crowded(60).admission.publish(0.0)[0]  # 49 were let in

    shed = published.check_before_decode(0.0, 0.05, "refuse", now=0.0)

    assert shed is not None
    assert (shed.reason, shed.limit) == ("overloaded", 0.05)
    assert shed.needed_s == pytest.approx(0.0501, abs=1e-6)  # the prediction is a high quantile
    assert shed.retry_after_s == pytest.approx(0.049)
    assert reason(published, 0.06) == ""


def test_an_urgent_request_is_left_open_before_patient_ones() -> None:
    assert reason(crowded(40, deadline_s=9.0).admission.publish(0.0)[0], 0.004) == ""


def test_a_late_answer_is_left_open_while_it_is_of_use() -> None:
    core = crowded(10, deadline_s=0.0105)

    assert reason(core.admission.publish(0.0)[0], 0.0105) == "overloaded"
    assert reason(core.admission.publish(0.0)[0], 0.0105, "answer") == ""
    for _ in range(60):
        core.admit(Request(0.0, 9.0), 0.0)
    assert reason(core.admission.publish(0.0)[0], 0.0105, "answer") == "overloaded"


def test_requests_that_the_engine_does_not_know_yet_go_before() -> None:
    published = scheduler().admission.publish(0.0)[0]

    assert reason(published, 0.010, ahead=5) == ""
    assert reason(published, 0.010, ahead=20) == "overloaded"


@pytest.mark.parametrize(
    ("deadline_s", "on_miss", "ahead", "is_shed"),
    [
        (0.5, "refuse", 0, False),  # takes the place of one that is due later
        (2.0, "refuse", 0, True),
        (0.5, "refuse", 3, True),
        (0.0005, "answer", 0, True),  # a late answer takes no place
    ],
)
def test_a_full_queue_has_a_place_for_the_more_urgent_only(
    deadline_s: float, on_miss: OnMiss, ahead: int, is_shed: bool
) -> None:
    published = crowded(3, deadline_s=1.0, max_queue=3).admission.publish(0.0)[0]

    assert reason(published, deadline_s, on_miss, ahead=ahead) == ("queue_full" if is_shed else "")


def test_it_is_a_row_of_floats_of_one_length() -> None:
    rows = [crowded(count).admission.publish(0.0)[0].to_floats() for count in (0, 1, STEPS, 40)]

    assert len({len(row) for row in rows}) == 1
    assert all(isinstance(float(value), float) for row in rows for value in row)
    for row in rows:
        assert Published.from_floats(row).to_floats() == row
        assert isinstance(Published.from_floats(row), Published)


def test_an_own_delay_counts_to_what_is_impossible() -> None:
    published = scheduler().admission.publish(0.0)[0]

    def found(*, is_alone: bool) -> str:
        shed = published.check_before_decode(0.0, 0.004, "refuse", now=0.0035, is_alone=is_alone)
        assert shed is not None
        return shed.reason

    assert found(is_alone=True) == "impossible"
    assert found(is_alone=False) == "overloaded"


drawn = st.tuples(st.floats(0.0, 0.2), st.sampled_from(["answer", "refuse"]))


@given(st.lists(drawn, max_size=60), drawn, st.floats(0.0, 0.05), st.booleans())
@settings(max_examples=100, deadline=None)
def test_nothing_is_shed_that_admission_would_let_in(
    before: list[tuple[float, OnMiss]],
    asked: tuple[float, OnMiss],
    passed_s: float,
    is_running: bool,
) -> None:
    core = scheduler(max_queue=40)
    for deadline_s, on_miss in before:
        core.admit(Request(0.0, deadline_s, on_miss), 0.0)
    if is_running:
        core.next_action(0.0)
    published = core.admission.publish(passed_s)[0]
    deadline_at = passed_s + asked[0]

    shed = published.check_before_decode(passed_s, deadline_at, asked[1], now=passed_s)

    if shed is not None:
        found = core.admit(Request(passed_s, deadline_at, asked[1]), passed_s)
        assert found is not None
        assert found.reason == shed.reason


@given(st.integers(0, 60), st.floats(0.0, 0.1))
@settings(max_examples=50, deadline=None)
def test_with_one_deadline_for_all_it_sheds_what_admission_sheds(
    count: int, deadline_s: float
) -> None:
    core = crowded(count, deadline_s=0.05)
    asked = Request(0.0, 0.05, "refuse")
    if count and isinstance(action := core.next_action(0.0), Run):
        core.finished(action, 0.0)

    published = core.admission.publish(0.0)[0]

    shed = published.check_before_decode(0.0, 0.05, "refuse", now=0.0)

    assert shed == core.admit(asked, 0.0)
