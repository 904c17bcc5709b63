import numpy as np
import pytest

from service.scheduling.forecast import Forecast


def after(arrivals: int, gap_s: float, deadline_s: float = 0.02) -> Forecast:
    forecast = Forecast()
    for k in range(arrivals):
        forecast.arrived(k * gap_s, deadline_s)
    return forecast


def test_nothing_is_expected_before_the_first_arrival() -> None:
    assert Forecast().rate(1.0) == 0.0


def test_the_rate_follows_the_arrivals() -> None:
    assert after(1000, 0.001).rate(0.999) == pytest.approx(1000, rel=0.05)


def test_a_burst_that_paused_may_go_on_and_one_that_ended_is_forgotten() -> None:
    forecast = after(1000, 0.001)

    assert forecast.rate(1.002) > 900
    assert forecast.rate(1.2) < 10


def test_few_arrivals_prove_a_burst_before_it_has_lasted() -> None:
    assert after(80, 0.0001).rate(0.0079) > 8_000
    assert after(5, 0.0001).rate(0.0004) < 1_000


def test_arrivals_at_one_instant_prove_no_lasting_rate() -> None:
    assert after(20, 0.0).rate(0.0) < 4_000


def test_one_arrival_after_a_burst_heralds_the_next_for_a_while() -> None:
    forecast = after(1000, 0.001)

    forecast.arrived(1.3, 0.02)
    assert forecast.rate(1.3) > 300
    forecast.arrived(11.3, 0.02)
    assert forecast.rate(11.3) < 50


def test_a_request_is_no_sign_of_others_beside_it() -> None:
    forecast = Forecast()
    forecast.arrived(0.0, 0.02)

    assert forecast.rate(0.001) > 30
    assert forecast.rate(0.001, beside=0.0) == pytest.approx(0.0, abs=1.0)
    assert after(1000, 0.001).rate(0.999, beside=0.999) > 900


def test_a_caller_that_waits_for_its_answers_brings_no_company() -> None:
    forecast = Forecast()
    for k in range(100):
        forecast.arrived(k * 0.001, 0.01, found_idle=True)

    assert forecast.rate(0.1) == 0.0
    forecast.arrived(0.1, 0.01, found_idle=False)
    assert forecast.rate(0.1) > 500


def test_arrivals_overtake_those_who_have_longer_than_they() -> None:
    forecast = after(100, 0.001, deadline_s=0.02)

    overtaking_s = forecast.overtaking_s(np.array([0.01, 0.02, 0.05]))

    assert overtaking_s == pytest.approx([0.0, 0.0, 0.03])


def test_none_overtakes_where_all_deadlines_are_alike() -> None:
    assert after(100, 0.001).overtaking_s(np.array([0.01, 0.02])) == 0.0
    assert Forecast().overtaking_s(np.array([0.01])) == 0.0


def test_the_overhead_is_a_mean_of_what_was_observed() -> None:
    forecast = Forecast()

    for k in range(400):
        forecast.observe_overhead(0.0002 if k % 2 else 0.0006, arrival_s=0.0001, deciding_s=0.0001)

    assert forecast.overhead_s == pytest.approx(0.0004, rel=0.05)
    assert forecast.arrival_s == pytest.approx(0.0001, rel=0.05)


def test_a_run_is_harmless_as_long_as_the_latest_deadlines_could_wait() -> None:
    forecast = Forecast()
    for k in range(64):
        forecast.arrived(0.01 * k, 0.010)

    assert forecast.max_blocking_s(0.001, rate=100) == pytest.approx(0.009)


def test_deadlines_that_nothing_can_meet_protect_nobody() -> None:
    forecast = Forecast()
    for k in range(64):
        forecast.arrived(0.01 * k, 0.000001)

    assert forecast.max_blocking_s(0.001, rate=100) == float("inf")


def test_a_rare_urgent_arrival_forbids_only_runs_that_are_likely_to_meet_one() -> None:
    forecast = Forecast()
    for k in range(64):
        forecast.arrived(0.01 * k, 0.002 if k == 5 else 1.0)

    # 100 arrivals a second, one in 64 of them urgent: in 12.8 ms a fiftieth of one comes
    assert forecast.max_blocking_s(0.001, rate=100) == pytest.approx(0.0128)
