import json
from functools import partial
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.observability.log import RequestLog, open_log
from service.observability.telemetry import Metrics
from service.outcomes import Outcome


def log_all(share: float, outcomes: list[Outcome]) -> list[int]:
    """Return the ids of the requests that got a line."""
    lines: list[str] = []
    log_request = RequestLog(open_log(lines.append), share)
    for index, outcome in enumerate(outcomes):
        log_request(outcome, partial(dict, request_id=index))
    return [json.loads(line)["request_id"] for line in lines]


@pytest.mark.parametrize(("share", "ids"), [(0.0, []), (0.25, [3, 7]), (1.0, list(range(8)))])
def test_the_sample_is_taken_evenly(share: float, ids: list[int]) -> None:
    assert log_all(share, ["in_time"] * 8) == ids


def test_what_the_server_failed_is_always_logged() -> None:
    assert log_all(0.0, ["in_time", "failed", "refused", "failed"]) == [1, 3]


def test_fields_are_not_built_for_requests_outside_the_sample() -> None:
    def build() -> dict[str, Any]:
        raise AssertionError("built")

    RequestLog(open_log(print), 0.0)("in_time", build)


def test_an_answer_is_seen_in_every_metric_about_answers() -> None:
    metrics = Metrics(CollectorRegistry(), version="test")

    metrics.answered(
        "m",
        subnetwork="full",
        label="cat",
        confidence=0.8,
        accuracy=0.93,
        outcome="late",
        latency_s=0.02,
        deadline_s=0.01,
        queue_s=0.004,
        decode_s=0.0002,
        reply_s=0.0001,
        slack_s=-0.003,
    )

    value = metrics.registry.get_sample_value
    of_full = {"model": "m", "subnetwork": "full"}
    assert value("anytime_requests_total", of_full | {"outcome": "late"}) == 1
    assert value("anytime_request_latency_seconds_sum", of_full) == 0.02
    assert value("anytime_deadline_used_ratio_sum", {"model": "m"}) == 2
    assert value("anytime_queue_time_seconds_sum", {"model": "m"}) == 0.004
    assert value("anytime_decode_seconds_sum", {"model": "m"}) == 0.0002
    assert value("anytime_reply_seconds_sum", {"model": "m"}) == 0.0001
    assert value("anytime_slack_seconds_bucket", of_full | {"le": "0.0"}) == 1
    assert value("anytime_expected_correct_total", of_full) == 0.93
    assert value("anytime_confidence_ratio_sum", of_full) == 0.8
    assert value("anytime_predictions_total", {"model": "m", "label": "cat"}) == 1


def test_a_run_is_held_against_its_prediction() -> None:
    metrics = Metrics(CollectorRegistry(), version="test")

    metrics.run_ended("m", subnetwork="full", batch_size=3, run_latency_s=0.012, predicted_s=0.010)

    value = metrics.registry.get_sample_value
    prediction = "anytime_run_over_prediction_ratio"
    assert value(f"{prediction}_bucket", {"model": "m", "subnetwork": "full", "le": "1.1"}) == 0
    assert value(f"{prediction}_bucket", {"model": "m", "subnetwork": "full", "le": "1.25"}) == 1
    assert value("anytime_run_latency_seconds_sum", {"model": "m", "subnetwork": "full"}) == 0.012
    assert value("anytime_batch_size_sum", {"model": "m"}) == 3


def show(metrics: Metrics, **accuracy: float) -> None:
    metrics.show(
        "m",
        bundle={"name": "cifar10", "digest": "abc"},
        accuracy=accuracy,
        labels=["cat", "dog"],
        predict_s=lambda name: 0.001 * len(name),
        slowdowns={"cpu:0": lambda: 1.5},
        queue_depth=lambda: 7,
    )


def test_what_can_happen_is_counted_from_zero() -> None:
    metrics = Metrics(CollectorRegistry(), version="test")

    show(metrics, full=0.93)

    value = metrics.registry.get_sample_value
    assert (
        value("anytime_requests_total", {"model": "m", "subnetwork": "none", "outcome": "refused"})
        == 0
    )
    assert (
        value("anytime_requests_total", {"model": "m", "subnetwork": "full", "outcome": "in_time"})
        == 0
    )
    assert value("anytime_request_latency_seconds_count", {"model": "m", "subnetwork": "full"}) == 0
    assert value("anytime_predictions_total", {"model": "m", "label": "dog"}) == 0
    assert (
        value("anytime_predicted_run_latency_seconds", {"model": "m", "subnetwork": "full"})
        == 0.004
    )
    assert value("anytime_slowdown_ratio", {"device": "cpu:0"}) == 1.5
    assert value("anytime_queue_depth", {"model": "m"}) == 7


def test_another_bundle_takes_the_place_of_the_first_and_counts_go_on() -> None:
    metrics = Metrics(CollectorRegistry(), version="test")
    show(metrics, shallow=0.8, full=0.93)
    metrics.request_ended("in_time", "m", "full")

    show(metrics, full=0.95)

    value = metrics.registry.get_sample_value
    assert (
        value("anytime_requests_total", {"model": "m", "subnetwork": "full", "outcome": "in_time"})
        == 1
    )
    assert value("anytime_subnetwork_accuracy_ratio", {"model": "m", "subnetwork": "full"}) == 0.95
    assert (
        value("anytime_subnetwork_accuracy_ratio", {"model": "m", "subnetwork": "shallow"}) is None
    )


def test_two_services_in_a_process_do_not_share_metrics() -> None:
    one, other = (Metrics(CollectorRegistry(), version="test") for _ in range(2))

    one.request_ended("invalid")

    labels = {"model": "none", "subnetwork": "none", "outcome": "invalid"}
    assert other.registry.get_sample_value("anytime_requests_total", labels) == 0
