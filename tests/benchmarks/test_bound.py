from functools import partial

import pytest

from benchmarks.virtual.bound import upper_bound
from service.scheduling.latency import LatencyModel
from service.scheduling.policies import Candidate

SUBNETWORKS = [Candidate("column-1", 0.6), Candidate("full", 0.9)]
LATENCY = LatencyModel({"column-1": {1: 0.001, 4: 0.002}, "full": {1: 0.004, 4: 0.016}})


bound = partial(upper_bound, subnetworks=SUBNETWORKS, latency_s=LATENCY.profile_s, max_batch=4)


def test_alone_a_request_is_as_right_as_the_full_network() -> None:
    assert bound([(0.0, 0.1)]) == pytest.approx(0.9)


def test_with_half_the_time_it_lies_on_the_line_between_two_subnetworks() -> None:
    assert bound([(0.0, 0.0025)]) == pytest.approx(0.75)


def test_a_crowd_pays_the_best_price_per_request_of_a_batch() -> None:
    assert bound([(0.0, 0.002)] * 4) == pytest.approx(4 * 0.6)  # 0.5 ms each


def test_those_that_never_meet_share_no_batch() -> None:
    assert bound([(0.0, 0.0005), (1.0, 1.0005)]) == pytest.approx(2 * 0.3)


def test_two_devices_serve_two_crowds() -> None:
    assert bound([(0.0, 0.002)] * 8) == pytest.approx(4 * 0.6)
    assert bound([(0.0, 0.002)] * 8, devices=2) == pytest.approx(8 * 0.6)


def test_the_cost_outside_a_run_takes_time_as_well() -> None:
    assert bound([(0.0, 0.002)], overhead_s=0.001) == pytest.approx(0.6)


def test_no_work_is_done_before_an_arrival_or_after_a_deadline() -> None:
    assert bound([(0.0, 0.004), (0.010, 0.014)]) == pytest.approx(1.8)
    assert bound([(0.0, 0.004), (0.010, 0.014)], work_at=lambda at: at / 4) == pytest.approx(
        2 * 0.6
    )
