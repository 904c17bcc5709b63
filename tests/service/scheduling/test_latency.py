from math import inf
from random import Random

import pytest

from service.scheduling.latency import QUANTILE, Devices, LatencyModel

PROFILE = {"column-1": {1: 0.001, 4: 0.0025}, "full": {1: 0.010}}


def test_sizes_between_those_profiled_are_interpolated_and_larger_ones_cost_in_proportion() -> None:
    model = LatencyModel(PROFILE)

    assert [model.profile_s("column-1", size) for size in (1, 2, 4, 8)] == pytest.approx(
        [0.001, 0.0015, 0.0025, 0.005]
    )
    assert model.profile_s("full", 3) == pytest.approx(0.030)


def test_a_profile_that_starts_past_one_costs_as_much_below() -> None:
    assert LatencyModel({"full": {4: 0.02}}).profile_s("full", 1) == 0.02


def test_the_prediction_is_a_high_quantile_of_what_is_observed() -> None:
    model, rng = LatencyModel(PROFILE), Random(1)
    met = 0

    for _ in range(4000):
        run_latency_s = 0.010 * rng.gammavariate(25, 1 / 25)  # a fifth of spread
        met += run_latency_s <= model.predict_s("full", 1)
        model.observe("full", 1, run_latency_s)

    # The standard error of a share of 0.98 of 4,000 is 0.0022; seeds 0 to 5 give 0.977 to 0.978.
    assert met / 4000 == pytest.approx(QUANTILE, abs=0.01)


def test_a_slow_machine_is_followed_within_five_runs_by_every_subnetwork_of_its_device_only() -> (
    None
):
    model = LatencyModel(PROFILE, Devices(2))

    for _ in range(5):
        model.observe("column-1", 1, 0.002, device=1)

    assert model.typical_s("full", 1, device=1) > 1.75 * 0.010
    assert model.typical_s("full", 1, device=0) == 0.010


def test_one_stall_is_no_evidence_of_a_slow_machine() -> None:
    model = LatencyModel(PROFILE)

    model.observe("column-1", 1, 0.1)

    assert model.devices.slowdown() < 1.7


def test_the_reserve_is_what_most_replies_take_and_not_what_one_in_fifty_does() -> None:
    devices = Devices()

    for k in range(3000):
        devices.observe_reply(0.009 if k % 50 == 0 else 0.0001 if k % 2 else 0.0005)

    # a step is 4 % of the reserve, or 8 % for a reply that took far longer
    assert devices.reserve_s == pytest.approx(0.0005, rel=0.2)


def test_one_stalled_reply_does_not_set_the_reserve() -> None:
    devices = Devices()
    usual_s = devices.reserve_s

    devices.observe_reply(0.1)

    assert devices.reserve_s < 1.1 * usual_s


@pytest.mark.parametrize(
    "profile", [{}, {"full": {}}, {"full": {0: 0.1}}, {"full": {1: 0.0}}, {"full": {1: -inf}}]
)
def test_a_profile_without_sense_is_an_error(profile: dict[str, dict[int, float]]) -> None:
    with pytest.raises(ValueError, match="profile"):
        LatencyModel(profile)


def test_the_reserve_is_learnt_from_nothing() -> None:
    devices = Devices(reserve_s=0.0)

    for _ in range(400):
        devices.observe_reply(0.0005)

    # a quantile of equal costs hovers about them, by a step at most
    assert devices.reserve_s == pytest.approx(0.0005, rel=0.1)
