from functools import partial

import pytest

from service.scheduling.forecast import Capacity, Forecast
from service.scheduling.latency import Devices


def after(arrivals: int, gap_s: float, deadline_s: float = 0.02) -> Forecast:
    forecast = Forecast()
    for k in range(arrivals):
        forecast.arrived(k * gap_s, deadline_s)
    return forecast


def test_nothing_is_expected_before_the_first_arrival() -> None:
    assert Forecast().rate(1.0) == 0.0


def test_the_rate_is_what_the_latest_arrivals_prove() -> None:
    # 64 arrivals less their standard deviation
    assert after(1000, 0.001).rate(0.999) == pytest.approx(56 / 0.063, rel=0.01)


def test_a_burst_that_paused_may_go_on_and_one_that_ended_is_forgotten() -> None:
    forecast = after(1000, 0.001)

    assert forecast.rate(1.002) > 700
    assert forecast.rate(3.0) < 30


def test_few_arrivals_prove_a_burst_before_it_has_lasted() -> None:
    assert after(80, 0.0001).rate(0.0079) > 8_000
    assert after(5, 0.0001).rate(0.0004) < 1_000


def test_arrivals_at_one_instant_prove_no_lasting_rate() -> None:
    assert after(20, 0.0).rate(0.0) < 4_000


def test_a_request_alone_is_no_sign_of_others() -> None:
    assert after(1, 0.0).rate(0.001) == 0.0


def test_the_lasting_rate_is_a_mean_over_a_quarter_of_a_second() -> None:
    assert after(1000, 0.001).lasting_rate(0.999) == pytest.approx(1000, rel=0.05)
    assert after(100, 0.0).lasting_rate(0.0) == pytest.approx(400)


def test_arrivals_overtake_those_who_have_longer_than_they() -> None:
    forecast = after(100, 0.001, deadline_s=0.02)

    assert forecast.overtaking_s([0.01, 0.02, 0.05]) == pytest.approx([0.0, 0.0, 0.03])


def test_the_latest_deadlines_stand_for_those_to_come() -> None:
    forecast = after(100, 0.001, deadline_s=0.5)
    for k in range(32):
        forecast.arrived(0.1 + k / 1000, 0.02 if k % 2 else 0.04)

    assert forecast.overtaking_s([0.03, 0.05]) == pytest.approx([0.005, 0.02])


def test_those_arrivals_are_lost_in_a_run_that_an_idle_machine_would_meet() -> None:
    forecast = Forecast()
    for deadline_s in (0.001, 0.004, 0.01, 0.02, 0.5):  # no machine meets the first
        forecast.arrived(0.0, deadline_s)

    losing_s = partial(forecast.losing_s, alone_s=0.005, idle_s=0.002)
    assert losing_s(0.004, urgent_s=1.0) == pytest.approx(0.004 / 5)
    assert losing_s(0.02, urgent_s=1.0) == pytest.approx((0.02 + 0.015 + 0.005) / 5)
    assert losing_s(0.02, urgent_s=0.01) == pytest.approx(0.02 / 5)


def test_what_a_burst_proves_is_expected_of_a_tenth_of_a_second_and_of_longer_times_what_lasts() -> (
    None
):
    forecast = after(64, 0.0001, deadline_s=0.0)
    now = 0.0063
    rate, lasting = forecast.rate(now), forecast.lasting_rate(now)

    assert rate > 10 * lasting > 0
    assert forecast.coming_before([0.05, 1.1], now) == pytest.approx(
        [0.05 * rate, 0.1 * rate + lasting]
    )


def test_none_overtakes_where_all_deadlines_are_alike() -> None:
    assert after(100, 0.001).overtaking_s([0.01, 0.02]) == [0.0, 0.0]
    assert Forecast().overtaking_s([0.01]) == [0.0]


def test_the_overhead_is_a_mean_of_what_was_observed() -> None:
    forecast = Forecast()

    for k in range(400):
        forecast.observe_overhead(0.0002 if k % 2 else 0.0006, deciding_s=0.0001)

    assert forecast.overhead_s == pytest.approx(0.0004, rel=0.05)
    assert forecast.deciding_s == pytest.approx(0.0001, rel=0.05)


def capacity(forecast: Forecast, devices: int = 1) -> Capacity:
    return Capacity(Devices(devices), forecast)


def test_runs_under_way_and_arrivals_take_time_from_those_that_wait() -> None:
    forecast = after(1000, 0.001)
    for _ in range(400):
        forecast.observe_overhead(0.0002, deciding_s=0.0001)
    busy = capacity(forecast, devices=2)
    busy.begin(0, end_at=1.009)

    (left_s,) = busy.left_s([0.1], 0.999)

    coming = 0.1 * 56 / 0.063
    assert left_s == pytest.approx(0.2 - 0.01 - 0.0001 * coming, rel=0.01)


def test_the_pace_is_that_of_all_devices_beside_the_arrivals() -> None:
    assert capacity(Forecast()).paces_s([0.01], 0.0) == pytest.approx([0.01])
    assert capacity(Forecast(), devices=4).paces_s([0.01], 0.0) == pytest.approx([0.0025])
