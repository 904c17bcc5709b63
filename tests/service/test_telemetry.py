import json
from functools import partial
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.telemetry import Metrics, Outcome, RequestLog, open_log

Capture = pytest.CaptureFixture[str]


def log_all(share: float, outcomes: list[Outcome], captured: Capture) -> list[int]:
    """Return the ids of the requests that got a line."""
    log_request = RequestLog(open_log(), share)
    for index, outcome in enumerate(outcomes):
        log_request(outcome, partial(dict, request_id=index))
    return [json.loads(line)["request_id"] for line in captured.readouterr().out.splitlines()]


@pytest.mark.parametrize(("share", "ids"), [(0.0, []), (0.25, [3, 7]), (1.0, list(range(8)))])
def test_the_sample_is_taken_evenly(share: float, ids: list[int], capsys: Capture) -> None:
    assert log_all(share, ["in_time"] * 8, capsys) == ids


def test_what_the_server_failed_is_always_logged(capsys: Capture) -> None:
    assert log_all(0.0, ["in_time", "failed", "refused", "failed"], capsys) == [1, 3]


def test_fields_are_not_built_for_requests_outside_the_sample() -> None:
    def build() -> dict[str, Any]:
        raise AssertionError("built")

    RequestLog(open_log(), 0.0)("in_time", build)


def test_an_answer_is_seen_in_every_metric_about_answers() -> None:
    metrics = Metrics(CollectorRegistry())

    metrics.answered(subnetwork="full", in_time=False, latency_s=0.02, queue_s=0.004, accuracy=0.93)

    value = metrics.registry.get_sample_value
    late = {"subnetwork": "full", "outcome": "late"}
    assert value("anytime_requests_total", late) == 1
    assert value("anytime_request_latency_seconds_sum", {"subnetwork": "full"}) == 0.02
    assert value("anytime_queue_time_seconds_sum") == 0.004
    assert value("anytime_expected_accuracy_ratio_sum") == 0.93


def test_two_services_in_a_process_do_not_share_metrics() -> None:
    one, other = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())

    one.request_ended("invalid")

    labels = {"subnetwork": "none", "outcome": "invalid"}
    assert other.registry.get_sample_value("anytime_requests_total", labels) is None
